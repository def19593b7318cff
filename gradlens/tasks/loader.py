"""Loading a task: distinct prompts from a source, split by their text."""

import bisect
import hashlib

from gradlens.tasks import reasoning_gym
from gradlens.tasks.template import cutter
from gradlens.tasks.types import Record, Task

# Fewer held-out prompts tell no learning gain from noise, and fewer training
# prompts are learned by heart.
MIN_PROMPTS = 1024
MIN_HELDOUT = 256

# All of a source's n prompts turn up in n log n draws, if they are as likely.
_DRAWS_PER_PROMPT = 16

# Held out are the prompts whose digest is below a quarter of its range.
_HELDOUT_BELOW = bytes([64])

_SOURCES = {'rg': reasoning_gym.source}


def load(
    name: str,
    source: str,
    *,
    pattern: str,
    template: str,
    num_train: int,
    num_heldout: int,
    seed: int,
) -> Task:
  r"""Loads a task.

  Which side of the split a prompt is on depends on its text alone, so that no
  other seed and no other size moves a prompt that one run learned from into
  the held-out set of another. Only a source without enough prompts on one side
  takes the missing ones from the other, those with the nearest digests.

  Args:
    name: of the task.
    source: `'rg:DATASET?KEY=VALUE&KEY=VALUE'`, a dataset of reasoning-gym with
      its parameters; a list is written with commas, a blank as `%20`.
    pattern: regular expression to be found in each of the source's questions.
    template: `str.format` string over the groups of `pattern`: the prompt.
    num_train: number of training records.
    num_heldout: number of held-out records.
    seed: of the draws from the source.

  Returns:
    The task, with exactly as many records as asked for, all of different
    prompts (blanks and case aside), in the order in which they were drawn.

  Raises:
    ValueError: the source, one of its parameters, the pattern or the template
      is wrong, or there are fewer prompts than asked for or than
      `MIN_PROMPTS`, `MIN_HELDOUT` of them held out.

  >>> task = load(
  ...     'reverse', 'rg:spell_backward?min_word_len=3&max_word_len=5',
  ...     pattern=r': (\w+)$', template='reverse {0}=',
  ...     num_train=768, num_heldout=256, seed=0)
  >>> record = task.train[0]
  >>> task.verify(record.answer, record)
  1.0
  """
  try:
    return _load(name, source, pattern, template, num_train, num_heldout, seed)
  except ValueError as error:
    raise ValueError(f'task {name!r}: {error}') from error


def _load(
    name: str, source: str, pattern: str, template: str, num_train: int,
    num_heldout: int, seed: int,
) -> Task:
  asked = num_train + num_heldout
  if asked < MIN_PROMPTS or num_heldout < MIN_HELDOUT:
    raise ValueError(
        f'num_train={num_train} and num_heldout={num_heldout} are too few; ask '
        f'for {MIN_PROMPTS} prompts or more, {MIN_HELDOUT} of them held out'
    )
  scheme, _, spec = source.partition(':')
  if scheme not in _SOURCES:
    raise ValueError(
        f'source {source!r} has the unknown scheme {scheme!r}; it starts with '
        f'one of {", ".join(f"{s}:" for s in _SOURCES)}'
    )
  num_draws = _DRAWS_PER_PROMPT * asked
  draw, verify = _SOURCES[scheme](spec, seed=seed, num_draws=num_draws)
  cut = cutter(pattern, template)

  records = {}
  missing = [num_train, num_heldout]
  for i in range(num_draws):
    question, answer, entry = draw(i)
    prompt = cut(question)
    digest = _digest(prompt)
    if answer and digest not in records:
      records[digest] = Record(prompt, answer, entry)
      missing[digest < _HELDOUT_BELOW] -= 1
      if max(missing) <= 0:
        break
  if len(records) < asked:
    raise ValueError(
        f'{source!r} holds {len(records)} distinct prompts (in {num_draws} '
        f'draws), {asked} asked; widen its parameters or ask for fewer'
    )
  return Task(name, *_split(records, num_train, num_heldout), verify)


def _digest(prompt: str) -> bytes:
  return hashlib.sha256(' '.join(prompt.casefold().split()).encode()).digest()


def _split(
    records: dict[bytes, Record], num_train: int, num_heldout: int
) -> tuple[list[Record], list[Record]]:
  digests = sorted(records)
  below = bisect.bisect_left(digests, _HELDOUT_BELOW)
  below = min(max(below, num_heldout), len(digests) - num_train)
  held = set(digests[:below])
  train = [r for digest, r in records.items() if digest not in held]
  heldout = [r for digest, r in records.items() if digest in held]
  return train[:num_train], heldout[:num_heldout]


def fingerprint(task: Task) -> str:
  """16 hexadecimal digits that tell a task's records from any others."""
  state = hashlib.sha256()
  for records in (task.train, task.heldout):
    pairs = [(record.prompt, record.answer) for record in records]
    state.update(repr(pairs).encode())
  return state.hexdigest()[:16]

"""Loading a task: distinct prompts from a source, split by their text."""

from collections.abc import Callable
import hashlib
import logging
from typing import Any

from gradlens.tasks import split
from gradlens.tasks.sources import open_source
from gradlens.tasks.template import cutter
from gradlens.tasks.types import Record, Source, Task

# Of sources that are drawn from. Fewer held-out prompts tell no learning gain
# from noise, and fewer training prompts are learned by heart.
MIN_PROMPTS = 1024
MIN_HELDOUT = 256

# All of a source's n prompts turn up in n log n draws, if they are as likely.
_DRAWS_PER_PROMPT = 16

# What a built-in verifier reads of an entry: another value is other data.
_READ = ('choices', 'numbers', 'target', 'tests')


def load(
    name: str,
    source: str,
    *,
    pattern: str,
    template: str,
    num_train: int,
    num_heldout: int,
    seed: int,
    verifier: str = '',
) -> Task:
  r"""Loads a task.

  Which side of the split a prompt is on depends on its text alone, so that no
  other seed and no other size moves a prompt that one run learned from into
  the held-out set of another. Only a source that is drawn from, and has not
  enough prompts on one side, takes the missing ones from the other, those with
  the nearest digests. Data that come split keep their split; a prompt on both
  sides is held out.

  Args:
    name: of the task.
    source: `'SCHEME:WHAT?KEY=VALUE&KEY=VALUE'`; a list is written with commas,
      a blank as `%20`. Schemes: `rg` (reasoning-gym), `jsonl`, `parquet` and
      `tfds`; see docs/tasks.md.
    pattern: regular expression to be found in each of the source's questions;
      '' matches any.
    template: `str.format` string over the groups of `pattern`, `question` and
      the names of the record's entry: the prompt.
    num_train: number of training records; of data that are not drawn, at most.
    num_heldout: number of held-out records, likewise.
    seed: of the draws from the source, or of the choice among its records.
    verifier: spec of a verifier; '' is the source's own.

  Returns:
    The task, with records of different prompts (blanks and case aside), in the
    order in which they were read; held-out data of a source's own in the order
    of the digests of their prompts.

  Raises:
    ValueError: the source, one of its parameters or records, the pattern, the
      template or the verifier is wrong; or a record lacks what the verifier
      reads; or a side of the split is empty; or there are fewer prompts than a
      source that is drawn from is to give, or fewer are asked of it than
      `MIN_PROMPTS`, `MIN_HELDOUT` of them held out.

  >>> task = load(
  ...     'reverse', 'rg:spell_backward?min_word_len=3&max_word_len=5',
  ...     pattern=r': (\w+)$', template='reverse {0}=',
  ...     num_train=768, num_heldout=256, seed=0)
  >>> record = task.train[0]
  >>> task.verify(record.answer, record)
  1.0
  """
  asked = num_train, num_heldout
  try:
    opened = open_source(
        source, seed=seed, num_draws=_DRAWS_PER_PROMPT * max(sum(asked), 1)
    )
    cut = cutter(pattern, template)
    named = verifier if verifier else opened.verify
    verify = _verify(named)
    train, heldout = _read(name, source, opened, cut, asked, seed)
    if isinstance(named, str):
      _check(verify, named, train + heldout)
  except ValueError as error:
    raise ValueError(f'task {name!r}: {error}') from error
  return Task(name, train, heldout, verify)


def _verify(verifier: str | Callable[..., Any]) -> Callable[..., Any]:
  if not isinstance(verifier, str):
    return verifier
  # Not before one is asked for: some bring libraries with them.
  from gradlens.tasks.verifiers import parse

  return parse(verifier)


def _check(verify: Any, named: str, records: list[Record]) -> None:
  """Has a verifier that a string names look at every record.

  One that scores nothing, or fails on all of it, would go unnoticed in a run.
  """
  for record in records:
    try:
      verify.check(record)
    except ValueError as error:
      raise ValueError(
          f'the verifier {named!r} cannot find a completion of the record'
          f' {record.prompt!r:.80} right: {error}'
      ) from error


def _read(
    name: str, text: str, source: Source, cut: split.Cut,
    asked: tuple[int, int], seed: int,
) -> split.Split:
  num_train, num_heldout = asked
  reader = split.Reader(source, cut)
  if source.generated:
    if sum(asked) < MIN_PROMPTS or num_heldout < MIN_HELDOUT:
      raise ValueError(
          f'num_train={num_train} and num_heldout={num_heldout} are too few; '
          f'ask for {MIN_PROMPTS} prompts or more, {MIN_HELDOUT} of them held '
          'out'
      )
    return split.drawn(reader, source, text, *asked)
  if min(asked) < 1:
    raise ValueError(
        f'num_train={num_train} and num_heldout={num_heldout} must be 1 or more'
    )
  by = split.divided if source.heldout is None else split.apart
  train, heldout = by(reader, source, *asked, seed)
  dropped = ', '.join(f'{n} {why}' for why, n in sorted(reader.dropped.items()))
  summary = (
      f'{len(train)} records to train on and {len(heldout)} held out ('
      f'{num_train} and {num_heldout} asked for), of {reader.num_read} read; '
      f'dropped: {dropped if dropped else "none"}'
  )
  if not train or not heldout:
    raise ValueError(
        f'{text!r} gives {summary}; give it more records, or held-out data by '
        'heldout='
    )
  logging.log(
      logging.WARNING if dropped else logging.INFO, 'Task %r has %s.', name,
      summary,
  )
  return train, heldout


def fingerprint(task: Task) -> str:
  """16 hexadecimal digits that tell a task's records from any others."""
  state = hashlib.sha256()
  for records in (task.train, task.heldout):
    state.update(repr([_facts(record) for record in records]).encode())
  return state.hexdigest()[:16]


def _facts(record: Record) -> tuple[Any, ...]:
  read = [record.entry[key] for key in _READ if key in record.entry]
  return (record.prompt, record.answer, *read)

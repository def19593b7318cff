"""Text: prompts and answers to padded tokens, and completions back to text."""

from collections.abc import Callable, Sequence
import functools
import logging
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)

Tokens = tuple[np.ndarray, np.ndarray]
Encode = Callable[[str], Sequence[int]]


def prompt_encoder(
    tokenizer: Any, *, chat: bool = False, system: str = ''
) -> Encode:
  """The function from a prompt to its tokens: an answer is to follow.

  Args:
    tokenizer: of the model.
    chat: the prompt is what a user says, in the tokenizer's chat template.
      Otherwise it stands for itself, after the token that begins a text if the
      tokenizer has its texts begin with one.
    system: what the system says before, in a chat.

  Raises:
    ValueError: a chat without a template, or a system without a chat.
  """
  if system and not chat:
    raise ValueError(
        f'prompt.system={system!r} belongs to a chat; set prompt.chat=True.'
    )
  if not chat:
    begin = [t for t in tokenizer.encode('') if t == tokenizer.bos_token_id]
    return lambda prompt: [
        *begin, *tokenizer.encode(prompt, add_special_tokens=False)
    ]
  if not tokenizer.chat_template:
    raise ValueError(
        'prompt.chat=True needs a chat template, and the tokenizer has none;'
        ' set prompt.chat=False.'
    )
  before = [dict(role='system', content=system)] if system else []
  return lambda prompt: tokenizer.apply_chat_template(
      [*before, dict(role='user', content=prompt)],
      add_generation_prompt=True, return_dict=False,
  )


def remembered(encode: Encode) -> Encode:
  """The same, but each text is read once; steps come back to their prompts."""
  return functools.cache(lambda text: np.array(encode(text), np.int32))


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
  """Tokens of a reference answer and the stop token."""
  tokens = tokenizer.encode(answer, add_special_tokens=False)
  return [*tokens, tokenizer.eos_token_id]


def pad(tokens: Sequence[Sequence[int]], length: int, *, left: bool) -> Tokens:
  """Arrays of one length: int32 tokens and a bool mask, both `[N, length]`."""
  out = np.zeros((len(tokens), length), np.int32)
  mask = np.zeros((len(tokens), length), bool)
  for row, mask_row, sequence in zip(out, mask, tokens, strict=True):
    span = slice(length - len(sequence), None) if left else slice(len(sequence))
    row[span], mask_row[span] = sequence, True
  return out, mask


def decode(tokenizer: Any, tokens: np.ndarray, mask: np.ndarray) -> str:
  """The text of one completion, without the stop token."""
  return tokenizer.decode(tokens[mask].tolist(), skip_special_tokens=True)


def without_long(
    encode_prompt: Encode, task: Any, max_prompt_tokens: int
) -> Any:
  """A task without the records whose prompts do not fit; the log says how many.

  Raises:
    ValueError: none is left to train on, or to hold out.
  """

  def fitting(records: Sequence[Any], what: str) -> list[Any]:
    kept = [
        record for record in records
        if len(encode_prompt(record.prompt)) <= max_prompt_tokens
    ]
    if records and not kept:
      raise ValueError(
          f'task {task.name!r}: of {len(records)} {what} prompts none has'
          f' rollout.max_prompt_tokens={max_prompt_tokens} or less; raise it.'
      )
    if len(kept) < len(records):
      _log.warning(
          'task %s: %d of %d %s prompts are dropped, with more than'
          ' rollout.max_prompt_tokens=%d', task.name,
          len(records) - len(kept), len(records), what, max_prompt_tokens,
      )
    return kept

  return task._replace(
      train=fitting(task.train, 'training'),
      heldout=fitting(task.heldout, 'held-out'),
  )


def check_lengths(
    encode_prompt: Encode, tokenizer: Any, task: str, records: Sequence[Any], *,
    max_prompt_tokens: int, max_new_tokens: int,
) -> None:
  """Refuses a task whose prompts or answers do not fit, before any work.

  Raises:
    ValueError: naming the task, the text, its length and the key to change.
  """
  encode_closed = functools.partial(encode_answer, tokenizer)
  for text, encode, key, limit in (
      ('prompt', encode_prompt, 'max_prompt_tokens', max_prompt_tokens),
      ('answer', encode_closed, 'max_new_tokens', max_new_tokens),
  ):
    texts = [getattr(record, text) for record in records]
    lengths = [len(encode(one)) for one in texts]
    if not min(lengths):
      raise ValueError(
          f'task {task!r}: a {text} has no tokens; make the task\'s source or'
          ' template give one.'
      )
    length, longest = max(zip(lengths, texts, strict=True))
    if length > limit:
      raise ValueError(
          f'task {task!r}: {text} {longest!r} has {length} tokens, but'
          f' rollout.{key}={limit}; raise it to {length} or more, or make the'
          " task's source or template shorter."
      )

"""Text: prompts and answers to padded tokens, and completions back to text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Tokens = tuple[np.ndarray, np.ndarray]


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
  """Tokens of a prompt, without special tokens: an answer is to follow."""
  return tokenizer.encode(prompt, add_special_tokens=False)


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


def check_lengths(
    tokenizer: Any, task: str, records: Sequence[Any], *,
    max_prompt_tokens: int, max_new_tokens: int,
) -> None:
  """Refuses a task whose prompts or answers do not fit, before any work.

  Raises:
    ValueError: naming the task, the text, its length and the key to change.
  """
  for text, encode, key, limit in (
      ('prompt', encode_prompt, 'max_prompt_tokens', max_prompt_tokens),
      ('answer', encode_answer, 'max_new_tokens', max_new_tokens),
  ):
    texts = [getattr(record, text) for record in records]
    lengths = [len(encode(tokenizer, one)) for one in texts]
    length, longest = max(zip(lengths, texts, strict=True))
    if length > limit:
      raise ValueError(
          f'task {task!r}: {text} {longest!r} has {length} tokens, but'
          f' rollout.{key}={limit}; raise it to {length} or more, or make the'
          " task's source or template shorter."
      )

"""The learned reward: a sequence classifier reads prompt and completion."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

from gradlens.tasks.types import Record
from gradlens.tasks.verifiers.score import Score


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """The score is the logistic function of what a classifier says.

  Pickled as its arguments. A worker reads the weights when it starts, and
  computes on the CPU.

  Attributes:
    path: as of `models.load_classifier`.
    chat: whether prompt and completion are put into the chat template of the
      tokenizer. Otherwise they stand one behind the other, with the token that
      ends a text behind them.
    max_tokens: of both together. Longer texts score 0.
  """

  path: str
  chat: bool = False
  max_tokens: int = 512

  def __post_init__(self) -> None:
    from gradlens import models  # Late, since few runs have use for it.

    models.load_model(self.path)
    tokenizer = models.load_tokenizer(self.path)
    if self.chat and not tokenizer.chat_template:
      raise ValueError(
          f'chat=true needs a chat template, and the tokenizer of {self.path}'
          ' has none'
      )
    if self.max_tokens < 1:
      raise ValueError(f'max_tokens={self.max_tokens} must be 1 or more')

  def __reduce__(self) -> tuple[Any, ...]:
    return _opened, (self.path, self.chat, self.max_tokens)

  def __call__(self, completion: str, record: Record) -> Score:
    tokenizer, read = _reader(self.path, self.max_tokens)
    tokens = _encode(tokenizer, record.prompt, completion, self.chat)
    if len(tokens) > self.max_tokens:
      return Score(0.0, f'{len(tokens)} tokens, more than {self.max_tokens}')
    reward = read(tokens)
    # Either form overflows on one side.
    small = math.exp(-abs(reward))
    score = (1.0 if reward >= 0 else small) / (1.0 + small)
    return Score(score, f'reward {reward:.4g}')

  def check(self, record: Record) -> None:
    del record  # Every record has a prompt.


def _opened(path: str, chat: bool, max_tokens: int) -> RewardModel:
  """With its weights in memory: reading them is in no item's time."""
  _reader(path, max_tokens)
  return RewardModel(path, chat, max_tokens)


@functools.cache
def _reader(
    path: str, max_tokens: int
) -> tuple[Any, Callable[[list[int]], float]]:
  """The tokenizer, and the function from tokens to the classifier's number."""
  import jax
  import numpy as np

  from gradlens import models, text

  model, params = models.load_classifier(path)
  prefill = jax.jit(functools.partial(models.prefill, model))

  def read(tokens: list[int]) -> float:
    number_1x1, _ = prefill(params, *text.pad([tokens], max_tokens, left=True))
    return float(np.asarray(number_1x1)[0, 0])

  read([0])  # Compiles it.
  return models.load_tokenizer(path), read


def _encode(
    tokenizer: Any, prompt: str, completion: str, chat: bool
) -> list[int]:
  # What is no text, a lone half of a character, has no tokens.
  completion = completion.encode('utf-8', 'replace').decode('utf-8')
  if chat:
    return list(tokenizer.apply_chat_template(
        [dict(role='user', content=prompt),
         dict(role='assistant', content=completion)], return_dict=False,
    ))
  tokens = tokenizer.encode(prompt + completion, add_special_tokens=False)
  return [*tokens, tokenizer.eos_token_id]

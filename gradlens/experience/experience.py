"""Experience: what a step learns from, sampled and verified, or given.

N prompts, or K tasks and B prompts a task; G completions a prompt, T tokens a
prompt, C tokens a completion.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlens import hosts, rollout, tasks, text
from gradlens.experience.degenerate import Asked, Equal


class Batch(NamedTuple):
  """Completions of a step's prompts, with their rewards.

  Attributes:
    prompts_KxBxT: int32, padded on the left.
    prompt_mask_KxBxT: bool.
    tokens_KxBxGxC: int32, padded on the right.
    mask_KxBxGxC: bool, True on sampled tokens, the stop token included.
    logprobs_KxBxGxC: float32, of the sampler.
    rewards_KxBxG: float32 in [0, 1]; at a place without a prompt, which has no
      sampled token either, the mean of its split.
    parts_KxBxGxM: the rewards that these are weighted sums of, one by one; 0
      where a task has fewer than M, and at a place without a prompt.
  """

  prompts_KxBxT: jax.Array
  prompt_mask_KxBxT: jax.Array
  tokens_KxBxGxC: jax.Array
  mask_KxBxGxC: jax.Array
  logprobs_KxBxGxC: jax.Array
  rewards_KxBxG: jax.Array
  parts_KxBxGxM: jax.Array


class Found(NamedTuple):
  """Completions of N prompts, scored; further ones beside them are not.

  Attributes:
    prompts_NxT: int32, padded on the left.
    prompt_mask_NxT: bool.
    completions: of the sampler.
    rewards_NxG: float32 in [0, 1].
    parts_NxGxM: the rewards that these are weighted sums of, one by one.
    equal_N: bool, True where no completion is better than another.
    lengths_NxG: tokens of the completions.
    truncated_NxG: bool, True on completions that were cut off at C tokens.
    errors_NxG: bool, True where the verifier raised.
    timeouts_NxG: bool, True where it ran out of time.
    verify_seconds_NxG: elapsed time that the verifier took.
    seconds: spent on 'rollout' and on 'verify'.
  """

  prompts_NxT: np.ndarray
  prompt_mask_NxT: np.ndarray
  completions: rollout.Completions
  rewards_NxG: np.ndarray
  parts_NxGxM: np.ndarray
  equal_N: np.ndarray
  lengths_NxG: np.ndarray
  truncated_NxG: np.ndarray
  errors_NxG: np.ndarray
  timeouts_NxG: np.ndarray
  verify_seconds_NxG: np.ndarray
  seconds: dict[str, float]


class Drawn(NamedTuple):
  """What came of the prompts that were drawn first; 0 where there is none.

  Attributes:
    rewards_KxBxG: float32.
    lengths_KxBxG: tokens of the completions.
    truncated_KxBxG: bool.
    parts_KxBxGxM: float32, of the rewards.
    equal_KxB: bool, True where no completion is better than another.
  """

  rewards_KxBxG: np.ndarray
  lengths_KxBxG: np.ndarray
  truncated_KxBxG: np.ndarray
  parts_KxBxGxM: np.ndarray
  equal_KxB: np.ndarray


class Sampled(NamedTuple):
  """A batch and what is known of it on the host.

  Attributes:
    batch: `Batch`; a place without a prompt has no sampled token.
    filled_KxB: bool, True where there is a prompt.
    drawn: of the prompts that were drawn first, before any were replaced.
    lengths_KxBxG: tokens of the batch's completions.
    equal_KxB: bool, True where no completion of the batch's prompt is better.
    errors_K: how many completions the verifier raised on.
    timeouts_K: on how many it ran out of time.
    verify_seconds_K: that it took for all of them, one after the other.
    refilled_K: further prompts sampled, for those with equal rewards only.
    unfilled_K: prompts with equal rewards only that no other could be found
      for.
    seconds: spent on 'rollout' and on 'verify'.
  """

  batch: Batch
  filled_KxB: np.ndarray
  drawn: Drawn
  lengths_KxBxG: np.ndarray
  equal_KxB: np.ndarray
  errors_K: np.ndarray
  timeouts_K: np.ndarray
  verify_seconds_K: np.ndarray
  refilled_K: np.ndarray
  unfilled_K: np.ndarray
  seconds: dict[str, float]


Records = Sequence[Sequence[Any]]  # [K][B]
Collect = Callable[[Any, Records, jax.Array], Sampled]
# (params, asked, key, room): N = room prompts, of which those asked are real.
# Devices are given their work; what is returned waits for it, and scores it.
Answer = Callable[[Any, Asked, jax.Array, int], Callable[[], Found]]


def _encode_prompts(
    encode_prompt: text.Encode, asked: Asked, room: int, max_prompt_tokens: int
) -> text.Tokens:
  """The prompts; the first one again in the room that is left."""
  encoded = [encode_prompt(record.prompt) for _, record in asked]
  encoded += encoded[:1] * (room - len(encoded))
  return text.pad(encoded, max_prompt_tokens, left=True)


def sampled(
    sampler: rollout.Sampler,
    encode_prompt: text.Encode,
    tokenizer: Any,
    verifier: tasks.Verifier,
    *,
    num_completions: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
    num_rewards: int,
    equal: Equal,
) -> Answer:
  """Completions of the current policy, scored by each task's verifier.

  Args:
    sampler: of the policy.
    encode_prompt: a record's prompt to tokens.
    tokenizer: of the model; reads completions for the verifier.
    verifier: scores completions of every task.
    num_completions: G.
    max_prompt_tokens: T.
    max_new_tokens: C.
    stop_tokens: that end a completion.
    num_rewards: M, the most that a task has.
    equal: of which prompts nothing is to be learned.

  Returns:
    `answer(params, asked, key, room)() -> Found`. Parameters may be written
    over before the second call.
  """

  def answer(
      params: Any, asked: Asked, key: jax.Array, room: int
  ) -> Callable[[], Found]:
    start = time.monotonic()
    prompts_NxT, prompt_mask_NxT = _encode_prompts(
        encode_prompt, asked, room, max_prompt_tokens
    )
    shape = room, num_completions
    with hosts.on_cpu():
      keys_NxG = rollout.request_keys(key, shape)
    out = sampler(params, prompts_NxT, prompt_mask_NxT, keys_NxG)
    _check(out, shape)
    asking = time.monotonic() - start
    return functools.partial(
        score, prompts_NxT, prompt_mask_NxT, out, asked, asking
    )

  def score(
      prompts_NxT: np.ndarray, prompt_mask_NxT: np.ndarray,
      out: rollout.Completions, asked: Asked, asking: float,
  ) -> Found:
    start, room = time.monotonic(), len(prompts_NxT)
    # Each host reads and scores what its own devices have sampled.
    rows = hosts.own_rows(out.mask_NxGxC)
    rows = rows[rows < len(asked)]
    tokens_nxGxC, mask_nxGxC = (
        hosts.read(a, rows) for a in (out.tokens_NxGxC, out.mask_NxGxC)
    )
    texts = [
        [text.decode(tokenizer, *pair) for pair in zip(*group, strict=True)]
        for group in zip(tokens_nxGxC, mask_nxGxC, strict=True)
    ]
    decoded = time.monotonic()
    results = _verify(verifier, texts, asked, rows)
    verified = time.monotonic()
    lengths_nxG = mask_nxGxC.sum(-1)
    full_nxG = (lengths_nxG == max_new_tokens) & ~np.isin(
        tokens_nxGxC[..., -1], list(stop_tokens)
    )
    own = np.array([
        (r.score, r.status == 'error', r.status == 'timeout', r.seconds,
         *_padded(r.parts or (r.score,), num_rewards))
        for r in results
    ], np.float32).reshape(len(rows), num_completions, 4 + num_rewards)
    own = np.concatenate(
        [lengths_nxG[..., None], full_nxG[..., None], own], -1,
        dtype=np.float32,
    )
    shared = hosts.share(own, rows, room)
    lengths, truncated, rewards, errors, timeouts, seconds = np.moveaxis(
        shared[..., :6], -1, 0
    )
    parts = shared[..., 6:]
    return Found(
        prompts_NxT, prompt_mask_NxT, out, rewards, parts,
        equal(asked, rewards, parts), lengths.astype(int), truncated > 0,
        errors > 0, timeouts > 0, seconds,
        dict(rollout=asking + decoded - start, verify=verified - decoded),
    )

  return answer


def _check(out: rollout.Completions, shape: tuple[int, int]) -> None:
  """Refuses what another engine must not give."""
  shapes = {a.shape for a in out}
  if len(shapes) > 1 or out.mask_NxGxC.shape[:2] != shape:
    raise ValueError(
        f'the sampler gave arrays of {" and ".join(map(str, shapes))} for'
        f' {shape[0]} prompts with {shape[1]} completions each.'
    )
  if out.mask_NxGxC.dtype != bool:
    raise ValueError(
        f'the sampler gave a mask of {out.mask_NxGxC.dtype}; it must be bool.'
    )


def _padded(parts: tuple[float, ...], count: int) -> tuple[float, ...]:
  return (*parts, *[0.0] * (count - len(parts)))


def _verify(
    verifier: tasks.Verifier, texts_nxG: list[list[str]], asked: Asked,
    rows: np.ndarray,
) -> list[tasks.Result]:
  """Of some rows of completions, one after the other."""
  return verifier.score([
      (asked[row][0], completion, asked[row][1])
      for row, group in zip(rows, texts_nxG, strict=True)
      for completion in group
  ])


def references(
    encode_prompt: text.Encode, tokenizer: Any, *, max_prompt_tokens: int,
    max_new_tokens: int,
) -> Answer:
  """The reference answers: one completion, reward 1."""

  def answer(
      params: Any, asked: Asked, key: jax.Array, room: int
  ) -> Callable[[], Found]:
    del params, key
    return functools.partial(found, asked, room)

  def found(asked: Asked, room: int) -> Found:
    prompts_NxT, prompt_mask_NxT = _encode_prompts(
        encode_prompt, asked, room, max_prompt_tokens
    )
    answers = [text.encode_answer(tokenizer, r.answer) for _, r in asked]
    answers += answers[:1] * (room - len(answers))
    tokens_NxC, mask_NxC = text.pad(answers, max_new_tokens, left=False)
    completions = rollout.Completions(
        tokens_NxC[:, None], mask_NxC[:, None],
        np.zeros((room, 1, max_new_tokens), np.float32),
    )
    none_NxG = np.zeros((room, 1), bool)
    one_NxG = np.ones((room, 1), np.float32)
    return Found(
        prompts_NxT, prompt_mask_NxT, completions, one_NxG, one_NxG[..., None],
        np.ones(room, bool), mask_NxC.sum(-1, keepdims=True),
        none_NxG, none_NxG, none_NxG, 0 * one_NxG, {},
    )

  return answer

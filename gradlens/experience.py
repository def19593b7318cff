"""Experience: what a step learns from, sampled and verified, or given.

K tasks, B prompts a task, G completions a prompt, T tokens a prompt, C tokens
a completion: task-major from here to the gradient.
"""

from collections.abc import Callable, Sequence
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlens import hosts, rollout, tasks, text


class Batch(NamedTuple):
  """Completions of a step's prompts, with their rewards.

  Attributes:
    prompts_KxBxT: int32, padded on the left.
    prompt_mask_KxBxT: bool.
    tokens_KxBxGxC: int32, padded on the right.
    mask_KxBxGxC: bool, True on sampled tokens, the stop token included.
    logprobs_KxBxGxC: float32, of the sampler.
    rewards_KxBxG: float32 in [0, 1].
  """

  prompts_KxBxT: jax.Array
  prompt_mask_KxBxT: jax.Array
  tokens_KxBxGxC: jax.Array
  mask_KxBxGxC: jax.Array
  logprobs_KxBxGxC: jax.Array
  rewards_KxBxG: jax.Array


class Sampled(NamedTuple):
  """A batch and what is known of it on the host.

  Attributes:
    batch: `Batch`.
    lengths_KxBxG: tokens of the completions.
    errors_K: how many completions the verifier raised on.
    timeouts_K: on how many it ran out of time.
    seconds: spent on 'rollout' and on 'verify'.
  """

  batch: Batch
  lengths_KxBxG: np.ndarray
  errors_K: np.ndarray
  timeouts_K: np.ndarray
  seconds: dict[str, float]


Records = Sequence[Sequence[Any]]  # [K][B]
Collect = Callable[[Any, Records, jax.Array], Sampled]


def _encode_prompts(
    encode_prompt: text.Encode, records_KxB: Records, max_prompt_tokens: int
) -> text.Tokens:
  encoded = [
      encode_prompt(record.prompt)
      for records in records_KxB for record in records
  ]
  tokens, mask = text.pad(encoded, max_prompt_tokens, left=True)
  shape = (len(records_KxB), len(records_KxB[0]), max_prompt_tokens)
  return tokens.reshape(shape), mask.reshape(shape)


def sampled(
    sampler: rollout.Sampler,
    encode_prompt: text.Encode,
    tokenizer: Any,
    verifier: tasks.Verifier,
    names: Sequence[str],
    *,
    num_completions: int,
    max_prompt_tokens: int,
) -> Collect:
  """Experience from the current policy, scored by each task's verifier.

  Args:
    sampler: of the policy.
    encode_prompt: a record's prompt to tokens.
    tokenizer: of the model; reads completions for the verifier.
    verifier: scores completions of every task in `names`.
    names: of the K tasks, in the order of their records.
    num_completions: G.
    max_prompt_tokens: T.

  Returns:
    `collect(params, records, key) -> Sampled`, where `records` holds B
    records of each of the K tasks.
  """

  def collect(params: Any, records_KxB: Records, key: jax.Array) -> Sampled:
    start = time.monotonic()
    prompts_KxBxT, prompt_mask_KxBxT = _encode_prompts(
        encode_prompt, records_KxB, max_prompt_tokens
    )
    k, b, t = prompts_KxBxT.shape
    out = sampler(
        params,
        prompts_KxBxT.reshape(k * b, t),
        prompt_mask_KxBxT.reshape(k * b, t),
        rollout.request_keys(key, (k * b, num_completions)),
    )
    _check(out, (k * b, num_completions))
    # Each host reads and scores what its own devices have sampled.
    rows = hosts.own_rows(out.mask_NxGxC)
    tokens, mask = (
        hosts.read(a, rows) for a in (out.tokens_NxGxC, out.mask_NxGxC)
    )
    texts = [
        [text.decode(tokenizer, *pair) for pair in zip(*group, strict=True)]
        for group in zip(tokens, mask, strict=True)
    ]
    decoded = time.monotonic()
    results = _verify(verifier, texts, records_KxB, names, rows)
    found = np.array([
        (r.score, r.status == 'error', r.status == 'timeout', length)
        for r, length in zip(results, mask.sum(-1).flat, strict=True)
    ], np.float32).reshape(len(rows), num_completions, 4)
    rewards, errors, timeouts, lengths = np.moveaxis(
        hosts.share(found, rows, k * b).reshape(k, b, num_completions, 4), -1, 0
    )
    seconds = dict(
        rollout=decoded - start, verify=time.monotonic() - decoded
    )
    out = jax.tree.map(lambda a: a.reshape(k, b, *a.shape[1:]), out)
    batch = Batch(
        prompts_KxBxT, prompt_mask_KxBxT, out.tokens_NxGxC, out.mask_NxGxC,
        out.logprobs_NxGxC, rewards,
    )
    failures = (a.sum((1, 2)).astype(int) for a in (errors, timeouts))
    return Sampled(batch, lengths.astype(int), *failures, seconds)

  return collect


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


def _verify(
    verifier: tasks.Verifier, texts_nxG: list[list[str]],
    records_KxB: Records, names: Sequence[str], rows: np.ndarray,
) -> list[tasks.Result]:
  """Of some rows of completions, one after the other."""
  prompts = [
      (name, record)
      for name, records in zip(names, records_KxB, strict=True)
      for record in records
  ]
  items = [
      (prompts[row][0], completion, prompts[row][1])
      for row, group in zip(rows, texts_nxG, strict=True)
      for completion in group
  ]
  return verifier.score(items)


def references(
    encode_prompt: text.Encode, tokenizer: Any, *, max_prompt_tokens: int,
    max_new_tokens: int,
) -> Collect:
  """Experience given by the reference answers: one completion, reward 1."""

  def collect(params: Any, records_KxB: Records, key: jax.Array) -> Sampled:
    del params, key
    prompts_KxBxT, prompt_mask_KxBxT = _encode_prompts(
        encode_prompt, records_KxB, max_prompt_tokens
    )
    k, b, _ = prompts_KxBxT.shape
    answers = [
        text.encode_answer(tokenizer, record.answer)
        for records in records_KxB for record in records
    ]
    tokens, mask = text.pad(answers, max_new_tokens, left=False)
    shape = (k, b, 1, max_new_tokens)
    batch = Batch(
        prompts_KxBxT, prompt_mask_KxBxT, tokens.reshape(shape),
        mask.reshape(shape), np.zeros(shape, np.float32),
        np.ones(shape[:3], np.float32),
    )
    none_K = np.zeros(k, int)
    lengths_KxBxG = batch.mask_KxBxGxC.sum(-1)
    return Sampled(batch, lengths_KxBxG, none_K, none_K, {})

  return collect

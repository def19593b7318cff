"""Metrics: what a step measured, as named scalars."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
import numpy as np

import gradlens as gl
from gradlens.blocks import whole_gram
from gradlens.experience import Sampled
from gradlens.experience.places import mean_of_prompts
from gradlens.step.train_step import Measured

Scalars = dict[str, float]


def _per_task(tag: str, values_K: Any, names: Sequence[str]) -> Scalars:
  return {
      f'{tag}/{name}': float(value)
      for name, value in zip(names, values_K, strict=True)
  }


def mean_of_finite(values: Sequence[float]) -> float:
  """NaN where there are none."""
  finite = [value for value in values if math.isfinite(value)]
  return math.fsum(finite) / len(finite) if finite else math.nan


def sampled_scalars(
    sampled: Sampled, names: Sequence[str], rewards: Sequence[Sequence[str]]
) -> Scalars:
  """What the batch says: rewards, lengths and the verifiers' failures.

  Rewards and lengths are of the prompts that were drawn, before any of them
  were replaced: those that replaced them were chosen by their rewards. Rewards
  of one task have names of their own.
  """
  rewards_KxBxG, lengths_KxBxG, truncated_KxBxG, parts, equal_KxB = (
      sampled.drawn
  )
  filled_KxB = sampled.filled_KxB
  prompts_K, rewards_KxB = filled_KxB.sum(1), rewards_KxBxG.mean(2)
  reward_K = mean_of_prompts(rewards_KxB, filled_KxB)
  spread_KxB = (rewards_KxB - reward_K[:, None]) ** 2
  per_task = dict(
      prompts=prompts_K,
      prompt_share=prompts_K / prompts_K.sum(),
      reward=reward_K,
      reward_std=np.sqrt(mean_of_prompts(spread_KxB, filled_KxB)),
      pass_rate=mean_of_prompts((rewards_KxBxG == 1).mean(2), filled_KxB),
      zero_advantage=mean_of_prompts(equal_KxB, filled_KxB),
      length=mean_of_prompts(lengths_KxBxG.mean(2), filled_KxB),
      truncated=mean_of_prompts(truncated_KxBxG.mean(2), filled_KxB),
      tokens=sampled.lengths_KxBxG.sum((1, 2)),
      refilled=sampled.refilled_K,
      unfilled=sampled.unfilled_K,
      verifier_errors=sampled.errors_K,
      verifier_timeouts=sampled.timeouts_K,
  )
  scalars = _per_task('seconds/verify', sampled.verify_seconds_K, names)
  for tag, values_K in per_task.items():
    scalars |= _per_task(tag, values_K, names)
  scalars |= _parts(parts, filled_KxB, names, rewards)
  return scalars | {f'seconds/{k}': v for k, v in sampled.seconds.items()}


def _parts(
    parts_KxBxGxM: np.ndarray, filled_KxB: np.ndarray, names: Sequence[str],
    rewards: Sequence[Sequence[str]],
) -> Scalars:
  """The means of each reward of the tasks that have several."""
  mean_MxK = [
      mean_of_prompts(parts_KxB, filled_KxB)
      for parts_KxB in np.moveaxis(parts_KxBxGxM.mean(2), -1, 0)
  ]
  return {
      f'reward_part/{name}/{part}': float(mean_MxK[m][k])
      for k, (name, own) in enumerate(zip(names, rewards, strict=True))
      if len(own) > 1
      for m, part in enumerate(own)
  }


def layers(grams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """One entry per block, and per layer of a scanned one: `layers.03`."""
  flat = {}
  for block, gram in grams.items():
    if gram.ndim == 2:
      flat[block] = gram
    else:
      flat |= {f'{block}.{i:02d}': g for i, g in enumerate(gram)}
  return flat


def gradient_scalars(
    measured: Measured, num_splits: int, names: Sequence[str],
    prompts_K: np.ndarray,
) -> Scalars:
  """Norms, shares and inner products of the tasks' gradients.

  These are of so many prompts. Nothing, if the step was not instrumented.
  """
  if measured.grams is None:
    return {}
  kinds = ('naive', 'unbiased') if num_splits > 1 else ('naive',)
  grams = jax.tree.map(lambda g: np.asarray(g, np.float64), measured.grams)
  gram_RxR = whole_gram(grams)
  task_gram = {
      kind: np.asarray(gl.task_gram(gram_RxR, num_splits, kind=kind))
      for kind in kinds
  }
  scalars = _per_task('skipped', measured.skipped_K, names)
  for kind, gram_KxK in task_gram.items():
    norm_sq_K = np.diag(gram_KxK)
    scalars |= _per_task(f'norm_sq/{kind}', norm_sq_K, names)
    # A task without tokens has no share, and no intrinsic gradient; nor has
    # one without prompts, which may have a share.
    with np.errstate(divide='ignore', invalid='ignore'):
      intrinsic_K = norm_sq_K / np.asarray(measured.shares_K) ** 2
    intrinsic_K = np.where(prompts_K > 0, intrinsic_K, np.nan)
    scalars |= _per_task(f'intrinsic_norm_sq/{kind}', intrinsic_K, names)
  by_block = {
      block: np.asarray(gl.task_gram(gram, num_splits, kind=kinds[-1]))
      for block, gram in grams.items()
  }
  for name, gram_KxK in layers(by_block).items():
    scalars |= _per_task(f'layer_norm_sq/{name}', np.diag(gram_KxK), names)
  for i, a in enumerate(names):
    for j, b in enumerate(names[i + 1:], i + 1):
      scalars[f'inner/{a}/{b}'] = float(task_gram['naive'][i, j])
  # A skipped task has no part in the update, and its NaN none in the shares; to
  # others it has no relation, and neither has a task without prompts.
  kept_K = (np.asarray(measured.skipped_K) == 0) & (prompts_K > 0)
  kept_R = np.repeat(kept_K, num_splits)
  kept = {
      name: np.where(kept_R[:, None] & kept_R, gram, 0.0)
      for name, gram in grams.items()
  }
  scalars |= _shares(kept, measured.weights, num_splits, names)
  scalars |= _noise(gram_RxR, num_splits, prompts_K, names)
  if kept_K.any():
    norm_sq_K = np.diag(task_gram[kinds[-1]])
    scalars['imbalance'] = float(gl.imbalance(norm_sq_K[kept_K]))
  kept_KxK = np.outer(kept_K, kept_K)
  cross_KxK = gl.task_gram(
      gram_RxR, num_splits, 'cross' if num_splits > 1 else 'naive'
  )
  scalars['conflict_rate'] = float(
      gl.conflict_rate(np.where(kept_KxK, cross_KxK, np.nan))
  )
  scalars['effective_rank'] = float(
      gl.effective_rank(np.where(kept_KxK, task_gram['naive'], 0.0))
  )
  return scalars | _after_optimizer(measured, kept_K, num_splits, names)


def _noise(
    gram_RxR: np.ndarray, num_splits: int, prompts_K: np.ndarray,
    names: Sequence[str],
) -> Scalars:
  """How much of each task's gradient is noise, which takes splits to see."""
  if num_splits == 1:
    return {}
  # A task without prompts has no gradient, and no such size.
  prompts_K = np.maximum(prompts_K, num_splits).tolist()
  critical_K = gl.critical_batch_size(gram_RxR, num_splits, prompts_K)
  return {
      **_per_task('noise_trace', gl.noise_trace(gram_RxR, num_splits), names),
      **_per_task('snr', gl.snr(gram_RxR, num_splits), names),
      **_per_task('critical_batch_size', critical_K, names),
  }


def _after_optimizer(
    measured: Measured, kept_K: np.ndarray, num_splits: int,
    names: Sequence[str],
) -> Scalars:
  """What the change of the parameters does to each task's loss."""
  if measured.inner_R is None:
    return {}
  gain_K = np.asarray(gl.predicted_gain(measured.inner_R, num_splits))
  gain_K = np.where(kept_K, gain_K, 0.0)
  return {
      **_per_task('gain/predicted', gain_K, names),
      **_per_task('share/optimizer', gl.gain_shares(gain_K), names),
  }


def _shares(
    grams: dict[str, np.ndarray], weights: Any, num_splits: int,
    names: Sequence[str],
) -> Scalars:
  """Each task's share of the squared length of the update, and the weights."""
  before_K = after_K = np.zeros(len(names))
  scalars = {}
  for block, gram in grams.items():
    gram_KxK = np.asarray(gl.task_gram(gram, num_splits, kind='naive'))
    w = weights[block] if isinstance(weights, dict) else weights
    w = np.broadcast_to(np.asarray(w, np.float64), gram_KxK.shape[:-1])
    inner = np.einsum('...kj,...j->...k', gram_KxK, w) * w
    before_K = before_K + gram_KxK.sum(-1).reshape(-1, len(names)).sum(0)
    after_K = after_K + inner.reshape(-1, len(names)).sum(0)
    if isinstance(weights, dict):
      mean_K = w.reshape(-1, len(names)).mean(0)
      scalars |= _per_task(f'layer_weight/{block}', mean_K, names)
  if not isinstance(weights, dict):
    scalars |= _per_task('weight', np.asarray(weights), names)
  scalars['grad_norm'] = float(np.sqrt(max(after_K.sum(), 0.0)))
  for when, parts_K in (('before', before_K), ('after', after_K)):
    total = parts_K.sum()
    shares_K = parts_K / total if total > 0 else np.zeros_like(parts_K)
    scalars |= _per_task(f'share/{when}', shares_K, names)
  return scalars


def _of_terms(
    measured: Measured, rows: Callable[[Any], np.ndarray],
    names: Sequence[str],
) -> Scalars:
  """What the terms of the loss say: 'clip_fraction' and 'kl', if it is on."""
  scalars = {}
  for tag, values_R in measured.terms_R.items():
    scalars |= _per_task(tag, rows(values_R).mean(1), names)
  return scalars


def step_scalars(
    measured: Measured, num_splits: int, names: Sequence[str],
    filled_KxB: np.ndarray, num_mini_batches: int = 1,
) -> Scalars:
  """Everything that a step measured on the device."""
  # Gradients are those of the first mini-batch.
  prompts_K = filled_KxB.sum(1) // num_mini_batches
  measured = jax.device_get(measured)

  def rows(values_R):
    return np.reshape(values_R, (len(names), num_splits))

  advantage_K = mean_of_prompts(
      np.abs(measured.advantages_KxBxG).mean(2), filled_KxB
  )
  return {
      **_per_task('loss', rows(measured.loss_R).sum(1), names),
      **_per_task('entropy', rows(measured.entropy_R).mean(1), names),
      **_per_task('sampler_gap', rows(measured.sampler_gap_R).mean(1), names),
      **_of_terms(measured, rows, names),
      **_per_task('abs_advantage', advantage_K, names),
      **gradient_scalars(measured, num_splits, names, prompts_K),
      'update_norm': float(measured.update_norm),
  }


def of_step(
    sampled: Sampled, measured: Measured, *, names: Sequence[str],
    rewards: Sequence[Sequence[str]], num_splits: int, num_mini_batches: int,
) -> Scalars:
  """Everything that is known of a step."""
  return {
      **sampled_scalars(sampled, names, rewards),
      **step_scalars(
          measured, num_splits, names, sampled.filled_KxB, num_mini_batches
      ),
  }

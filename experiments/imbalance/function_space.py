"""How far a step along a task's gradient moves the policy.

A squared norm counts parameters alike, the policy does not. A step d moves the
distribution of a token by a divergence KL(before || after) of d' F d / 2 to
second order, with F the Fisher matrix of that token. Here d is the gradient of
a task's contribution to the loss, and F the mean over tokens of held-out
completions of one task, sampled by the policy.

References:
  Amari, Natural gradient works efficiently in learning, 1998
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl
from gradlens import measurement, models
from gradlens.experience import Batch
from gradlens.setup import build, sampling


class Moved(NamedTuple):
  """Divergences by tasks' steps, in nats a token, with 95% intervals.

  Attributes:
    names: of the tasks.
    kl: `(value, low, high)`, each `[on, of]`: on completions of one task, by
      the step of length 1 times the gradient of another.
    per_norm: the same over the gradient's squared norm, both unbiased: of a
      step whose length is 1.
  """

  names: list[str]
  kl: tuple[np.ndarray, np.ndarray, np.ndarray]
  per_norm: tuple[np.ndarray, np.ndarray, np.ndarray]


def make_products(
    model: models.Model, temperature: float
) -> Callable[..., jax.Array]:
  """`f(params, rows_RxP, batch_B) -> [R, R]`, of all `r' F s`.

  F is the mean over the sampled tokens of a batch of one task.
  """

  def products(params, rows_RxP, batch):
    b, g, c = batch.tokens_KxBxGxC.shape
    t = batch.prompts_KxBxT.shape[1]
    tokens_NxL, mask_NxL = (
        jnp.concatenate([
            jnp.repeat(prompts, g, axis=0), completions.reshape(b * g, c)
        ], axis=1) for prompts, completions in (
            (batch.prompts_KxBxT, batch.tokens_KxBxGxC),
            (batch.prompt_mask_KxBxT, batch.mask_KxBxGxC),
        )
    )

    def logprobs(params):
      logits_NxCxV = models.logits(
          model, params, tokens_NxL, mask_NxL, start=t - 1
      )[:, :-1]
      return models.policy_logprobs(logits_NxCxV, temperature)

    logprobs_NxCxV, push = jax.linearize(logprobs, params)
    moved_RxNxCxV = jax.lax.map(push, rows_RxP)
    mask_NxC = mask_NxL[:, t:]
    weight_NxCxV = jnp.exp(logprobs_NxCxV) * mask_NxC[..., None]
    return jnp.einsum(
        'rncv,sncv,ncv->rs', moved_RxNxCxV, moved_RxNxCxV, weight_NxCxV
    ) / mask_NxC.sum()

  return jax.jit(products)


def measure(config: Any, num_prompts: int, num_splits: int) -> Moved:
  """Takes tasks' gradients, and what their steps do to held-out completions.

  Args:
    config: of a run; a batch of its prompts stands for each task.
    num_prompts: of each task, for the gradients.
    num_splits: parts of these, of which different ones are multiplied.
  """
  found = measurement.sample_rows(
      config, num_prompts=num_prompts, num_splits=num_splits
  )
  run = build.setup(config)
  key = jax.random.fold_in(jax.random.key(config.seed), 5)
  records = [task.heldout[:config.prompts_per_task] for task in run.tasks]
  with sampling.verifier(config, run) as verifier:
    collect = sampling.collector(
        config, run, sampling.sampler(config, run), verifier
    )
    params = models.join(run.params, run.frozen)
    batch = collect(params, records, key).batch
  products = make_products(run.model, config.rollout.temperature)
  scale_RxR = np.outer(found.scale_R, found.scale_R)
  grams = [
      np.asarray(
          products(params, found.rows_RxP, own), np.float64
      ) * scale_RxR for own in map(Batch._make, zip(*batch, strict=True))
  ]
  norms = sum(measurement.inner_products(found).blocks.values())
  return summarize(run.names, grams, norms, num_splits)


def summarize(
    names: list[str], grams: list[np.ndarray], norms_RxR: np.ndarray,
    num_splits: int,
) -> Moved:
  """Of `[R, R]` on every task, and of the gradients' inner products."""

  def kl(splits):
    return np.stack([
        measurement.unbiased(gram, splits, num_splits) / 2 for gram in grams
    ])

  def per_norm(splits):
    return kl(splits) / measurement.unbiased(norms_RxR, splits, num_splits)

  splits = np.arange(num_splits)
  with np.errstate(invalid='ignore'):  # of a task without any gradient, NaN
    return Moved(
        names, gl.jackknife(kl, splits), gl.jackknife(per_norm, splits)
    )


def as_rows(moved: Moved) -> list[dict[str, Any]]:
  """A row for each pair of tasks."""
  return [
      {'on': on, 'of': of} | {
          name + end: float(bound[i, k])
          for name in ('kl', 'per_norm')
          for end, bound in zip(
              ('', '_low', '_high'), getattr(moved, name), strict=True)
      }
      for i, on in enumerate(moved.names) for k, of in enumerate(moved.names)
  ]

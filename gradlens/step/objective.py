"""Objectives: what a step maximizes, of rewards and log-probabilities.

An objective is put together when the step is built, from terms. A term that is
not wanted is not there, and neither is what it would have needed.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens import advantages, losses
from gradlens.experience import Batch
from gradlens.models import Scores
from gradlens.step.rows import Row

# Policies other than the one that is trained.
OLD, REFERENCE = 'old', 'reference'

# (scores, row) -> a loss of each token, and what else is to be known of it, by
# name: `[B, G, C]` each
Term = Callable[[Scores, Row], tuple[jax.Array, dict[str, jax.Array]]]


class Objective(NamedTuple):
  """What is maximized: rewards to advantages, log-probs to a token loss.

  Attributes:
    select: the batch, without what is not to be learned from.
    advantages: of the batch's rewards, and of `filled_KxB`, which is True
      where there is a prompt.
    terms: of the loss, which is their sum.
    policies: whose log-probabilities the terms find in `Row.logprobs`: `OLD`
      is the policy before the step's first update, `REFERENCE` the one before
      the run's.
    extras: of `rewards_KxBxG`, what a weighting may ask for beside the Gram.
  """

  select: Callable[[Batch], Batch]
  advantages: Callable[[Batch, jax.Array], jax.Array]
  terms: tuple[Term, ...]
  policies: tuple[str, ...]
  extras: Callable[[jax.Array], dict[str, jax.Array]]

  def loss(
      self, scores: Scores, row: Row
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A loss of each token, and what the terms say of it."""
    values, seen = zip(*(term(scores, row) for term in self.terms), strict=True)
    return sum(values), functools.reduce(dict.__or__, seen)


def surrogate(make: losses.MakeSurrogate) -> Term:
  """The surrogate of the reward; the sampler stands for the old policy."""

  def term(scores, row):
    found = make(
        scores.logprobs, row.batch.logprobs_KxBxGxC, row.batch.mask_KxBxGxC,
        row.advantages_BxG,
    )
    return found.loss, dict(clip_fraction=found.clipped)

  return term


def corrected_surrogate(make: losses.MakeSurrogate, *, cap: float) -> Term:
  """The surrogate, with ratios to the trainer's own old policy.

  How that differs from the sampler is a weight of the token (see
  `losses.importance_weights`), and has no part in the clipping.
  """

  def term(scores, row):
    old, mask = row.logprobs[OLD], row.batch.mask_KxBxGxC
    found = make(scores.logprobs, old, mask, row.advantages_BxG)
    weights = losses.importance_weights(
        old, row.batch.logprobs_KxBxGxC, mask, cap=cap
    )
    return weights * found.loss, dict(clip_fraction=found.clipped)

  return term


def kl(*, coef: float, estimator: str) -> Term:
  """A penalty on the divergence from the reference (`losses.kl_divergence`)."""

  def term(scores, row):
    found = losses.kl_divergence(
        scores.logprobs, row.logprobs[REFERENCE], row.batch.mask_KxBxGxC,
        estimator=estimator,
    )
    return coef * found, dict(kl=found)

  return term


def weighted_kl(*, coef: float, estimator: str) -> Term:
  """The same by the ratio of the policy to the one that sampled.

  The expectation is then under the policy itself, and the gradient in the mean
  that of the divergence (DeepSeek-AI, DeepSeek-V3.2, 2025, arXiv 2512.02556,
  there with 'k3').
  """

  def term(scores, row):
    mask = row.batch.mask_KxBxGxC
    found = losses.kl_divergence(
        scores.logprobs, row.logprobs[REFERENCE], mask, estimator=estimator
    )
    ratio = jnp.exp(losses.log_ratio(
        scores.logprobs, row.batch.logprobs_KxBxGxC, mask
    ))
    return coef * ratio * found, dict(kl=found)

  return term


def entropy_bonus(*, coef: float) -> Term:
  """A reward for the policy's entropy at each token."""
  return lambda scores, row: (-coef * scores.entropy, {})


def without_truncated(
    batch: Batch, *, stop_tokens: Sequence[int]
) -> Batch:
  """The batch without completions that ended for want of room.

  They are left out of the loss and of its denominator; their rewards still
  count in the advantages of the others. A completion is truncated if it is as
  long as can be and does not end with a stop token.

  References:
    Yu et al., DAPO, 2025, arXiv 2503.14476 (overlong filtering).
  """
  mask = jnp.asarray(batch.mask_KxBxGxC)
  last = jnp.asarray(batch.tokens_KxBxGxC)[..., -1]
  stopped = jnp.isin(last, jnp.asarray(stop_tokens))
  truncated = jnp.all(mask, axis=-1) & ~stopped
  return batch._replace(mask_KxBxGxC=mask & ~truncated[..., None])


def everything(batch: Batch) -> Batch:
  """All of the batch."""
  return batch


def success(rewards_KxBxG: jax.Array) -> dict[str, jax.Array]:
  """Of each task: its mean reward, and what it lacks."""
  # The loss of GRPO is about 0 when all is right, and when all is wrong: what a
  # loss-driven weighting wants to know is the lack of reward.
  rewards_K = jnp.mean(rewards_KxBxG, axis=(1, 2))
  return dict(rewards_K=rewards_K, losses_K=1 - rewards_K)


def grpo(
    *, advantage_scale: str, clip_low: float, clip_high: float
) -> Objective:
  """Group-relative policy optimization (Shao et al., 2024, arXiv 2402.03300).

  Without a KL term.
  """
  return Objective(
      everything,
      lambda batch, filled_KxB: advantages.group_advantages(
          batch.rewards_KxBxG, scale=advantage_scale
      ),
      (surrogate(functools.partial(
          losses.clipped, clip_low=clip_low, clip_high=clip_high
      )),),
      (),
      success,
  )


def supervised() -> Objective:
  """Maximum likelihood of the reference answers."""
  return Objective(
      everything,
      lambda batch, filled_KxB: jnp.ones_like(batch.rewards_KxBxG),
      (lambda scores, row: (-scores.logprobs, {}),),
      (),
      lambda rewards_KxBxG: {},  # All are 1.
  )

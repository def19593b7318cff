"""Surrogates: what is minimized in place of the reward, token by token.

A surrogate's gradient at the policy that sampled is the policy gradient,
`-A grad log p`; they differ in what happens further away.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlens import masked


class Surrogate(NamedTuple):
  """Of each token, float32 `[B, G, C]`.

  Attributes:
    loss: to be minimized.
    clipped: 1 where the ratio was held at a bound, else 0.
  """

  loss: jax.Array
  clipped: jax.Array


# (logprobs, old_logprobs, mask, advantages) -> Surrogate
MakeSurrogate = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array], Surrogate
]


def log_ratio(a: jax.Array, b: jax.Array, mask: jax.Array) -> jax.Array:
  """Of two log-probabilities; 0 where nothing was sampled.

  There the ratio could be infinite, and its gradient times 0 is NaN.
  """
  return jnp.where(mask, a - b, 0.0)


def _clip(ratio, advantages_BxGx1, clip_low, clip_high):
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  held = jnp.where(advantages_BxGx1 > 0, ratio > clipped, ratio < clipped)
  return Surrogate(
      -jnp.minimum(ratio * advantages_BxGx1, clipped * advantages_BxGx1),
      jnp.where(advantages_BxGx1 == 0, 0.0, held.astype(jnp.float32)),
  )


def clipped(
    logprobs_BxGxC: jax.Array,
    old_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    advantages_BxG: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
  """Each token's ratio, held where it has gone far enough.

  .. math::
    -\\min(r A, \\mathrm{clip}(r, 1 - clip\\_low, 1 + clip\\_high) A), \\quad
    r = \\exp(logprobs - old\\_logprobs)

  Args:
    logprobs_BxGxC: of the policy that is trained.
    old_logprobs_BxGxC: of the policy that sampled; a constant.
    mask_BxGxC: which tokens were sampled.
    advantages_BxG: of each completion.
    clip_low: the ratio is clipped to at least 1 - clip_low.
    clip_high: and to at most 1 + clip_high.

  Returns:
    `Surrogate`.

  References:
    Schulman et al., Proximal Policy Optimization, 2017, arXiv 1707.06347;
    Yu et al., DAPO, 2025, arXiv 2503.14476 (two clip ranges).
  """
  ratio = jnp.exp(log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC))
  return _clip(ratio, advantages_BxG[..., None], clip_low, clip_high)


def dual_clipped(
    logprobs_BxGxC: jax.Array,
    old_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    advantages_BxG: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
    bound: float,
) -> Surrogate:
  """`clipped`, and of a bad completion the ratio is bounded above, too.

  There the plain loss grows with the ratio without end:

  .. math::
    -\\max(\\min(r A, \\mathrm{clip}(r) A), bound \\cdot A)
    \\quad \\text{where } A < 0

  Args:
    logprobs_BxGxC: of the policy that is trained.
    old_logprobs_BxGxC: of the policy that sampled; a constant.
    mask_BxGxC: which tokens were sampled.
    advantages_BxG: of each completion.
    clip_low: as in `clipped`.
    clip_high: as in `clipped`.
    bound: above 1.

  Returns:
    `Surrogate`.

  References:
    Ye et al., Mastering Complex Control in MOBA Games, 2019, arXiv 1912.09729.
  """
  ratio = jnp.exp(log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC))
  advantages_BxGx1 = advantages_BxG[..., None]
  once = _clip(ratio, advantages_BxGx1, clip_low, clip_high)
  largest = -bound * advantages_BxGx1
  bad = advantages_BxGx1 < 0
  return Surrogate(
      jnp.where(bad, jnp.minimum(once.loss, largest), once.loss),
      jnp.where(bad & (ratio > bound), 1.0, once.clipped),
  )


def _sequence_log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC):
  """Mean over each completion's tokens: `[B, G, 1]`."""
  of_token = log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC)
  return masked.mean(of_token, mask_BxGxC, axis=-1)[..., None]


def sequence_clipped(
    logprobs_BxGxC: jax.Array,
    old_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    advantages_BxG: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
  """GSPO: `clipped`, with one ratio for all tokens of a completion.

  The ratio is that of the completion's probabilities to the power of one over
  its length. Every token has the completion's loss, so that the mean over its
  tokens is it.

  Args:
    logprobs_BxGxC: of the policy that is trained.
    old_logprobs_BxGxC: of the policy that sampled; a constant.
    mask_BxGxC: which tokens were sampled.
    advantages_BxG: of each completion.
    clip_low: as in `clipped`; the paper has 3e-4.
    clip_high: as in `clipped`; the paper has 4e-4.

  Returns:
    `Surrogate`.

  References:
    Zheng et al., Group Sequence Policy Optimization, 2025, arXiv 2507.18071.
  """
  ratio_BxGx1 = jnp.exp(
      _sequence_log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC)
  )
  found = _clip(ratio_BxGx1, advantages_BxG[..., None], clip_low, clip_high)
  return jax.tree.map(
      lambda a: jnp.broadcast_to(a, logprobs_BxGxC.shape), found
  )


def sequence_token_clipped(
    logprobs_BxGxC: jax.Array,
    old_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    advantages_BxG: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
  """GSPO-token: the completion's ratio, of which each token pulls its part.

  Its value is that of `sequence_clipped`; its gradient is the ratio times that
  of the token's own log-probability. Meant for advantages that differ by
  token; with one for the completion it is GSPO, where losses are means over
  each completion.

  Args:
    logprobs_BxGxC: of the policy that is trained.
    old_logprobs_BxGxC: of the policy that sampled; a constant.
    mask_BxGxC: which tokens were sampled.
    advantages_BxG: of each completion.
    clip_low: as in `clipped`.
    clip_high: as in `clipped`.

  Returns:
    `Surrogate`.

  References:
    Zheng et al., Group Sequence Policy Optimization, 2025, arXiv 2507.18071,
    section 4.3.
  """
  log_ratio_BxGx1 = jax.lax.stop_gradient(
      _sequence_log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC)
  )
  own = log_ratio(
      logprobs_BxGxC, jax.lax.stop_gradient(logprobs_BxGxC), mask_BxGxC
  )
  ratio = jnp.exp(log_ratio_BxGx1 + own)
  return _clip(ratio, advantages_BxG[..., None], clip_low, clip_high)


def weight_clipped(
    logprobs_BxGxC: jax.Array,
    old_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    advantages_BxG: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
  """CISPO: the ratio is a bounded weight, and no token loses its gradient.

  .. math::
    -\\mathrm{sg}(\\mathrm{clip}(r, 1 - clip\\_low, 1 + clip\\_high))
    \\, A \\, logprobs

  Args:
    logprobs_BxGxC: of the policy that is trained.
    old_logprobs_BxGxC: of the policy that sampled; a constant.
    mask_BxGxC: which tokens were sampled.
    advantages_BxG: of each completion.
    clip_low: as in `clipped`; 1 bounds the weight above only, as the paper
      does.
    clip_high: as in `clipped`.

  Returns:
    `Surrogate`; `clipped` is 1 where the weight is at a bound.

  References:
    MiniMax, MiniMax-M1, 2025, arXiv 2506.13585.
  """
  ratio = jnp.exp(log_ratio(logprobs_BxGxC, old_logprobs_BxGxC, mask_BxGxC))
  weight = jax.lax.stop_gradient(
      jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  )
  return Surrogate(
      -weight * advantages_BxG[..., None] * logprobs_BxGxC,
      (weight != ratio).astype(jnp.float32),
  )


SURROGATES = dict(
    clip=clipped,
    gspo=sequence_clipped,
    gspo_token=sequence_token_clipped,
    cispo=weight_clipped,
)

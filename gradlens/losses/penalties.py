"""Penalties: what is added to a surrogate, and weights that it is given."""

import jax
import jax.numpy as jnp

from gradlens.losses.surrogates import log_ratio


def _k1(log_ratio):
  return log_ratio


def _k2(log_ratio):
  return log_ratio**2 / 2


def _k3(log_ratio):
  return jnp.expm1(-log_ratio) + log_ratio


ESTIMATORS = dict(k1=_k1, k2=_k2, k3=_k3)


def kl_divergence(
    logprobs_BxGxC: jax.Array,
    reference_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    *,
    estimator: str,
) -> jax.Array:
  """An estimate of KL(policy, reference) at each token that was sampled.

  With `l = log(policy / reference)`: 'k1' is `l`, 'k2' is `l**2 / 2`, 'k3' is
  `exp(-l) - 1 + l`. 'k1' and 'k3' have the divergence as their mean; 'k3' is
  never negative.

  .. warning::
    As a loss, the gradient of 'k1' is that of the log-probability, and 0 in
    the mean: it pulls nowhere. That of 'k2' is in the mean the divergence's
    own, and that of 'k3' the one of KL(reference, policy). Times the ratio of
    the policy to the one that sampled, 'k1' and 'k3' have the right one (see
    `gradlens.step.objective.weighted_kl`).

  Args:
    logprobs_BxGxC: of the policy that is trained.
    reference_logprobs_BxGxC: of the reference; a constant.
    mask_BxGxC: which tokens were sampled.
    estimator: 'k1', 'k2' or 'k3'.

  Returns:
    float32 `[B, G, C]`, in nats; 0 where nothing was sampled.

  References:
    Schulman, Approximating KL Divergence, 2020,
    http://joschu.net/blog/kl-approx.html.
  """
  return ESTIMATORS[estimator](
      log_ratio(logprobs_BxGxC, reference_logprobs_BxGxC, mask_BxGxC)
  )


def importance_weights(
    old_logprobs_BxGxC: jax.Array,
    sampled_logprobs_BxGxC: jax.Array,
    mask_BxGxC: jax.Array,
    *,
    cap: float,
) -> jax.Array:
  """How much likelier the trainer found a token than the sampler, at most.

  Another engine, or another precision, samples from another policy than the
  one that is trained, even before the first update. Weights of tokens undo
  this; truncated, they have a bounded variance.

  Args:
    old_logprobs_BxGxC: of the trainer, before the first update; a constant.
    sampled_logprobs_BxGxC: of the sampler; a constant.
    mask_BxGxC: which tokens were sampled.
    cap: the largest weight.

  Returns:
    float32 `[B, G, C]`; 1 where nothing was sampled.

  References:
    Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training, 2025, https://fengyao.notion.site/off-policy-rl.
  """
  ratio = jnp.exp(
      log_ratio(old_logprobs_BxGxC, sampled_logprobs_BxGxC, mask_BxGxC)
  )
  return jnp.minimum(ratio, cap)

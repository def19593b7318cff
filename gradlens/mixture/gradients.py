"""Shares from gradients: by how large they are, or how well they agree."""

from collections.abc import Sequence

import numpy as np

from gradlens.mixture import averages
from gradlens.mixture.kind import Kind, State, above_zero, softmax
from gradlens.mixture.seen import Seen, numbers

_LEAST = 1e-12  # share of a task in which no signal was found


def gradient(
    names: Sequence[str], sizes_K: Sequence[int], *, power: float = 1.0,
    estimate: str = 'unbiased', smoothing: float = 0.9, interval: int = 1,
) -> Kind:
  r"""In proportion to the size of the tasks' gradients.

  .. math:: p_k \propto \max(\bar n_k, 0)^{\text{power} / 2}

  with :math:`\bar n_k` the squared norm of the gradient of the task's own
  normalized loss, averaged over steps. A diagnostic: if size meant potential
  to learn, this would help. The paper names neither power nor average.

  Args:
    names: of the tasks.
    sizes_K: unused.
    power: 1 for norms, 2 for squared norms.
    estimate: of the squared norms: 'unbiased' or 'naive'. The naive one grows
      as a task's prompts become fewer.
    smoothing: of the average, from 0 (the last step) to below 1.
    interval: shares change every so many steps.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Wu et al., Imbalanced Gradients in RL Post-Training of Multi-Task LLMs,
    2025, arXiv 2510.19178
  """
  del sizes_K
  above_zero('power', power)
  averages.check_smoothing(smoothing)
  if interval < 1:
    raise ValueError(f'interval={interval} must be 1 or more')
  if estimate not in ('naive', 'unbiased'):
    raise ValueError(f"estimate={estimate!r}: choose 'naive' or 'unbiased'")
  k = len(names)

  def init():
    return dict(steps=0, norms=averages.empty((k,)), shares=[1.0] * k)

  def learn(state: State, seen: Seen):
    norms = state['norms']
    if seen.grams is not None:
      norm_sq_K = np.diag(numbers(seen.grams[estimate]))
      norms = averages.add(norms, norm_sq_K, smoothing)
    steps = state['steps'] + 1
    shares = state['shares']
    if steps % interval == 0:
      shares = _by_size(averages.mean(norms), power).tolist()
    return dict(steps=steps, norms=norms, shares=shares)

  return Kind(
      init, learn, lambda state: numbers(state['shares']), needs=estimate
  )


def _by_size(norm_sq_K: np.ndarray, power: float) -> np.ndarray:
  """Shares by squared norms; of an unknown one as of the others' mean."""
  if not (norm_sq_K > 0).any():
    return np.ones(len(norm_sq_K))
  sizes_K = np.maximum(norm_sq_K / np.nanmax(norm_sq_K), 0.0) ** (power / 2)
  sizes_K = np.where(np.isnan(sizes_K), np.nanmean(sizes_K), sizes_K)
  return np.maximum(sizes_K / sizes_K.sum(), _LEAST)


def aligned(
    names: Sequence[str], sizes_K: Sequence[int], *,
    temperature: float = 0.2, smoothing: float = 0.9,
) -> Kind:
  r"""A bandit on |advantage| times the agreement with other tasks' gradients.

  .. math::
    p_k \propto \exp(a_k (1 + c_k) / 2 \tau), \qquad
    c_k = \frac{1}{K - 1} \sum_{j \ne k} \cos(g_k, g_j)

  with :math:`a_k` the mean of |advantage|; this, and the inner products and
  unbiased squared norms that the cosines are made of, averaged over steps. A
  cosine is 0 where no signal is found.

  .. warning:: The paper projects gradients at random; here they are whole. How
     the two signals are joined, temperature and smoothing are ours.

  Args:
    names: of the tasks.
    sizes_K: unused.
    temperature: :math:`\tau`; lower is greedier.
    smoothing: of the averages, from 0 (the last step) to below 1.

  Raises:
    ValueError: an argument that makes no sense.

  References:
    Yang et al., Transferability for General Reasoning (TAC), 2026,
    arXiv 2606.25178
  """
  del sizes_K
  above_zero('temperature', temperature)
  averages.check_smoothing(smoothing)
  k = len(names)

  def init():
    return dict(advantages=averages.empty((k,)), gram=averages.empty((k, k)))

  def learn(state: State, seen: Seen):
    gram = state['gram']
    if seen.grams is not None:
      gram = averages.add(gram, numbers(seen.grams['unbiased']), smoothing)
    advantages = averages.add(
        state['advantages'], numbers(seen.abs_advantages_K), smoothing
    )
    return dict(advantages=advantages, gram=gram)

  def shares(state: State):
    advantages_K = np.nan_to_num(averages.mean(state['advantages']))
    agreement_K = _agreement(averages.mean(state['gram']))
    return softmax(advantages_K * (1 + agreement_K) / 2, temperature)

  return Kind(init, learn, shares, needs='unbiased')


def _agreement(gram_KxK: np.ndarray) -> np.ndarray:
  """Every task's mean cosine with the others; 0 for what is not known."""
  k = len(gram_KxK)
  scale_K = np.sqrt(np.maximum(np.nan_to_num(np.diag(gram_KxK)), 0.0))
  scale_KxK = np.outer(scale_K, scale_K)
  known_KxK = (scale_KxK > 0) & np.isfinite(gram_KxK) & ~np.eye(k, dtype=bool)
  cosines_KxK = np.where(known_KxK, gram_KxK, 0.0) / np.where(
      known_KxK, scale_KxK, 1.0
  )
  return np.clip(cosines_KxK, -1, 1).sum(1) / max(k - 1, 1)

"""Passing: how many prompts are solved, and how well that is known."""

import numpy as np
from scipy import special, stats

_RESAMPLES = 9999


def pass_at_k(passed_NxG: np.ndarray, k: int) -> np.ndarray:
  r"""Whether one of k completions passes, estimated from G without bias.

  .. math:: \text{pass@}k = 1 - \binom{G - c}{k} \Big/ \binom{G}{k}

  where c of a prompt's G completions pass.

  Args:
    passed_NxG: bool, of N prompts with G completions each.
    k: from 1 to G.

  Returns:
    float64 `[N]`, of each prompt.

  Raises:
    ValueError: k is not from 1 to G.

  References:
    Chen et al., Evaluating Large Language Models Trained on Code, 2021, arXiv
    2107.03374

  >>> import numpy as np
  >>> pass_at_k(np.array([[True, False, False], [False] * 3]), k=2).round(3)
  array([0.667, 0.   ])
  """
  total = passed_NxG.shape[1]
  if not 1 <= k <= total:
    raise ValueError(
        f'pass@{k} needs {k} completions of a prompt or more, and k at least'
        f' 1; there are {total}.'
    )
  failed_N = total - passed_NxG.sum(axis=1)
  return 1 - special.comb(failed_N, k) / special.comb(total, k)


def pass_rate(
    passed_NxG: np.ndarray, k: int = 1, level: float = 0.95
) -> tuple[float, float, float]:
  """The mean of `pass_at_k` over prompts, with an interval.

  Prompts are what is drawn independently. With one completion of each, or
  where all prompts have passed or none, it is Wilson's interval of N trials;
  otherwise the percentiles of a bootstrap of prompts, the same every time.

  Args:
    passed_NxG: bool, of N prompts with G completions each.
    k: from 1 to G.
    level: the probability that the interval holds the true value.

  Returns:
    `(estimate, low, high)`.

  Raises:
    ValueError: see `pass_at_k`, or there is no prompt.

  References:
    Wilson, Probable Inference, the Law of Succession, and Statistical
    Inference, 1927; Efron, Bootstrap Methods: Another Look at the Jackknife,
    1979

  >>> import numpy as np
  >>> print('{:.2f} [{:.2f}, {:.2f}]'.format(
  ...     *pass_rate(np.array([[True]] * 8 + [[False]] * 2))))
  0.80 [0.49, 0.94]
  """
  rates_N = pass_at_k(passed_NxG, k)
  if not rates_N.size:
    raise ValueError('a pass rate of no prompts is not known.')
  rate = float(rates_N.mean())
  if passed_NxG.shape[1] == 1 or rate in (0.0, 1.0):
    trials = stats.binomtest(round(rates_N.sum()), rates_N.size)
    return rate, *map(float, trials.proportion_ci(level, 'wilson'))
  found = stats.bootstrap(
      (rates_N,), np.mean, n_resamples=_RESAMPLES, confidence_level=level,
      method='percentile', rng=np.random.default_rng(0),
  ).confidence_interval
  return rate, float(found.low), float(found.high)

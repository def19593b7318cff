"""What is run: every method at its own learning rate, with shared seeds."""

from experiments.corrections import config
from experiments.study import Arm

CONFIG = 'experiments/corrections/config.py'
RATES = 1e-4, 2e-4, 4e-4
# Learning rates are chosen on other seeds than methods are compared on.
TUNING_SEEDS = 100, 101


def _arm(
    part: str, method: str, rate: float, seed: int, keys: tuple[str, ...]
) -> Arm:
  return Arm(
      dict(part=part, method=method, rate=rate, seed=seed), 'gradlens.main',
      ','.join([
          f'{CONFIG}:{method}', f'seed={seed}',
          f'optimizer.learning_rate={rate}', *keys,
      ]),
  )


def tuning(*keys: str) -> list[Arm]:
  """Every method of the core at every rate."""
  return [
      _arm('tuning', method, rate, seed, keys)
      for method in config.CORE for rate in RATES for seed in TUNING_SEEDS
  ]


def core(rates: dict[str, float], seeds: int, *keys: str) -> list[Arm]:
  """Every method of the core at its rate; seeds first, so that more follow."""
  return [
      _arm('core', method, rates[method], seed, keys)
      for seed in range(seeds) for method in config.CORE
  ]


def others(rate: float, *keys: str) -> list[Arm]:
  """Every other method once, at the rate of the plain sum."""
  return [_arm('others', method, rate, 0, keys) for method in config.OTHERS]

"""What is run: every method at its own learning rate, with shared seeds."""

from experiments.corrections import config
from experiments.study import Arm
from experiments.zoo.config import SEEDS

CONFIG = 'experiments/corrections/config.py'
RATES = 3e-5, 1e-4, 3e-4
# Learning rates are chosen on another seed than methods are compared on, and in
# shorter runs.
TUNING_SEED = 100
TUNING = 'num_steps=20', 'evaluate.every=20'
STEPS = 'num_steps=40',


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


def tuning() -> list[Arm]:
  """Every method of the core at every rate."""
  return [
      _arm('tuning', method, rate, TUNING_SEED, TUNING)
      for method in config.CORE for rate in RATES
  ]


def core(
    rates: dict[str, float], seeds: int, keys: tuple[str, ...] = STEPS
) -> list[Arm]:
  """Every method of the core at its rate; seeds first, so that more follow."""
  return [
      _arm('core', method, rates[method], seed, keys)
      for seed in SEEDS[:seeds] for method in config.CORE
  ]


def others(rate: float) -> list[Arm]:
  """Every other method once, at the rate of the plain sum."""
  return [
      _arm('others', method, rate, SEEDS[0], STEPS)
      for method in config.OTHERS
  ]

"""What is run: four tasks together, and one thing changed at a time."""

from collections.abc import Iterator
import random

from experiments.imbalance.arms import SETTINGS
from experiments.study import Arm
from experiments.zoo import config as zoo

CONFIG = 'experiments/causes/config.py'
BASE = 'base', 'uniform'
# Of the largest gradients: before training, and in it (experiments/imbalance).
LOUDEST = dict(mixed='gcd', arithmetic='sums3')
DOSES = 0.25, 4
SAMPLING = 'mixture.kind=gradient', 'mixture.max_prompts=64'
_LENGTH = 'num_steps=40',


def _arm(
    part: str, setting: str, kind: str, seed: int, tasks: list[str],
    keys: tuple[str, ...],
) -> Arm:
  return Arm(
      dict(part=part, setting=setting, kind=kind, seed=seed), 'gradlens.main',
      ','.join([f'{CONFIG}:{"+".join(tasks)}', f'seed={seed}', *keys]),
  )


def subsets(count: int) -> list[list[str]]:
  """Four tasks of the zoo, drawn at random."""
  draw = random.Random(0)
  return [sorted(draw.sample(sorted(zoo.TASKS), 4)) for _ in range(count)]


def paired(
    setting: str, seeds: int, keys: tuple[str, ...] = _LENGTH
) -> Iterator[Arm]:
  """What is compared seed by seed; prompts of a task are the same in all."""
  tasks, loudest = SETTINGS[setting].split('+'), LOUDEST[setting]
  for seed in zoo.SEEDS[:seeds]:
    yield _arm(BASE[0], setting, BASE[1], seed, tasks, keys)
    for dose in DOSES:
      kind = f'{loudest}@{dose:g}'
      yield _arm('dose', setting, kind, seed, tasks, (f'dose={kind}', *keys))
    yield _arm(
        'sampling', setting, 'gradient', seed, tasks, (*SAMPLING, *keys)
    )
    for task in tasks:
      others = [other for other in tasks if other != task]
      yield _arm('alone', setting, task, seed, [task], keys)
      yield _arm('without', setting, task, seed, others, keys)


def random_tasks(
    count: int, keys: tuple[str, ...] = _LENGTH
) -> Iterator[Arm]:
  """One run of each subset."""
  for i, tasks in enumerate(subsets(count)):
    yield _arm('subset', 'random', str(i), zoo.SEEDS[0], tasks, keys)


def everything() -> list[Arm]:
  """The study."""
  return [
      *(arm for setting in SETTINGS for arm in paired(setting, 3)),
      *random_tasks(10),
  ]


def smoke() -> list[Arm]:
  """Two seeds of one arm of most parts, and two subsets."""
  keys = (
      'num_steps=4', 'prompts_per_task=8', 'num_completions=4',
      'evaluate.every=4', 'evaluate.num_completions=1', 'gain_window=1',
  )
  few = BASE, ('sampling', 'gradient'), ('dose', 'gcd@4'), ('alone', 'gcd')
  return [
      *(arm for arm in paired('mixed', 2, keys)
        if (arm.labels['part'], arm.labels['kind']) in few),
      *random_tasks(2, keys),
  ]

"""What is run: four tasks together, and one thing changed at a time."""

import random

from experiments.study import Arm
from experiments.zoo import config as zoo

CONFIG = 'experiments/causes/config.py'
TASKS = 'gcd', 'palindrome', 'spell', 'sums'
BASE = 'base', 'uniform'
# The task with the largest gradients (experiments/imbalance), and another.
DOSED = 'gcd', 'spell'
DOSES = 0.25, 4
SAMPLING = 'mixture.kind=gradient', 'mixture.max_prompts=64'


def _arm(
    part: str, kind: str, seed: int, tasks: tuple[str, ...],
    keys: tuple[str, ...],
) -> Arm:
  return Arm(
      dict(part=part, kind=kind, seed=seed), 'gradlens.main',
      ','.join([f'{CONFIG}:{"+".join(tasks)}', f'seed={seed}', *keys]),
  )


def subsets(count: int) -> list[tuple[str, ...]]:
  """As many tasks of the zoo as TASKS, drawn at random."""
  draw = random.Random(0)
  return [
      tuple(sorted(draw.sample(sorted(zoo.TASKS), len(TASKS))))
      for _ in range(count)
  ]


def paired(seeds: int, *keys: str) -> list[Arm]:
  """What is compared seed by seed; prompts of a task are the same in all."""
  found = []
  for seed in range(seeds):
    found.append(_arm(*BASE, seed, TASKS, keys))
    found.append(_arm('sampling', 'gradient', seed, TASKS, (*SAMPLING, *keys)))
    found += [
        _arm('dose', f'{task}@{dose:g}', seed, TASKS,
             (f'dose={task}@{dose:g}', *keys))
        for task in DOSED for dose in DOSES
    ]
    found += [_arm('alone', task, seed, (task,), keys) for task in TASKS]
    found += [
        _arm('without', task, seed, tuple(t for t in TASKS if t != task), keys)
        for task in TASKS
    ]
  return found


def random_tasks(count: int, *keys: str) -> list[Arm]:
  """One run of each subset."""
  return [
      _arm('subset', str(i), 0, tasks, keys)
      for i, tasks in enumerate(subsets(count))
  ]


def everything() -> list[Arm]:
  """The study."""
  return [*paired(3), *random_tasks(10)]


def smoke() -> list[Arm]:
  """Two seeds of one arm of most parts, and two subsets."""
  keys = (
      'num_steps=4', 'prompts_per_task=8', 'num_completions=4',
      'evaluate.every=4', 'evaluate.num_completions=1', 'gain_window=1',
  )
  few = BASE, ('sampling', 'gradient'), ('dose', 'gcd@4'), ('alone', 'gcd')
  return [
      *(arm for arm in paired(2, *keys)
        if (arm.labels['part'], arm.labels['kind']) in few),
      *random_tasks(2, *keys),
  ]

"""What is run: figure 1 and its confounds, and what takes norms apart."""

from collections.abc import Iterator

from experiments.study import Arm
from experiments.zoo.config import SEEDS

CONFIG = 'experiments/zoo/config.py'
# Tasks of different kinds, and tasks of arithmetic.
SETTINGS = dict(
    mixed='gcd+palindrome+spell+sums',
    arithmetic='decimals+sums+sums3+terms',
)
NORMALIZATIONS = dict(
    sequence='loss.aggregate=sequence_mean',
    token='loss.aggregate=token_mean',
    fixed='loss.aggregate=fixed_length',
    task='loss.aggregate=token_mean,loss.normalize=task',
)
# Of the same policy and prompts, to learn from reference answers.
SUPERVISED = dict(supervised='objective=supervised')
# Learning rates whose updates are of the same order.
OPTIMIZERS = dict(
    adamw='optimizer.name=adamw',
    lion='optimizer.name=lion',
    sgd='optimizer.name=sgd,optimizer.learning_rate=0.3',
)
CLIPS = dict(clip='optimizer.clip_norm=1.0', free='optimizer.clip_norm=0.0')

_MAIN, _MEASURE = 'gradlens.main', 'gradlens.measure'


def _arm(
    part: str, setting: str, kind: str, seed: int, keys: list[str],
    program: str = _MAIN, flags: tuple[str, ...] = (),
) -> Arm:
  config = ','.join([
      f'{CONFIG}:{SETTINGS[setting]}', f'seed={seed}', *keys
  ])
  labels = dict(part=part, setting=setting, kind=kind, seed=seed)
  return Arm(labels, program, config, flags)


def figure(seeds: int, keys: list[str]) -> Iterator[Arm]:
  """Training runs: several of the first normalization, one of the others."""
  for setting in SETTINGS:
    for i, (kind, normalization) in enumerate(NORMALIZATIONS.items()):
      for seed in SEEDS[:1 if i else seeds]:
        yield _arm('figure', setting, kind, seed, [normalization, *keys])


def fixed(prompts: int, keys: list[str]) -> Iterator[Arm]:
  """The first policy: one set of completions under every normalization.

  And the reference answers in their place.
  """
  flags = f'--prompts={prompts}', '--splits=8', '--json'
  for setting in SETTINGS:
    for kind, loss in (NORMALIZATIONS | SUPERVISED).items():
      yield _arm(
          'fixed', setting, kind, SEEDS[0], [loss, *keys], _MEASURE, flags
      )


def optimizers(keys: list[str]) -> Iterator[Arm]:
  """Training runs by every optimizer, with and without clipping."""
  for setting in SETTINGS:
    for name, optimizer in OPTIMIZERS.items():
      for clip, norm in CLIPS.items():
        yield _arm(
            'optimizer', setting, f'{name}-{clip}', SEEDS[0],
            [optimizer, norm, *keys],
        )


def anatomy(seeds: int, keys: list[str], flags: tuple[str, ...]) -> list[Arm]:
  """All tasks of the zoo taken apart at the first policy."""
  return [
      Arm(
          dict(part='anatomy', setting='zoo', kind='first', seed=seed),
          'experiments.imbalance.measure',
          ','.join([f'{CONFIG}:seed={seed}', *keys]), flags,
      ) for seed in SEEDS[:seeds]
  ]


def function_space(keys: list[str], flags: tuple[str, ...]) -> Iterator[Arm]:
  """What steps along the first policy's task gradients do to the policy."""
  for setting in SETTINGS:
    yield _arm(
        'function', setting, 'first', SEEDS[0], keys,
        'experiments.imbalance.measure', ('--kind=function_space', *flags),
    )


def everything() -> list[Arm]:
  """The study."""
  short = ['num_steps=30', 'evaluate.every=30']
  return [
      *fixed(1024, []), *anatomy(2, [], ()), *figure(3, []),
      *optimizers(short), *function_space([], ()),
  ]


def smoke() -> list[Arm]:
  """One arm of each part that goes another way, and no more than it needs."""
  keys = [
      'num_steps=4', 'prompts_per_task=8', 'num_completions=4',
      'evaluate.every=2', 'evaluate.num_completions=1', 'gain_window=1',
  ]
  parts = figure(2, keys), optimizers(keys)
  losses = 'sequence', 'token', *SUPERVISED
  few = '--batches=2', '--token_prompts=2'
  return [
      *(arm for arm in fixed(64, keys) if arm.labels['setting'] == 'mixed'
        and arm.labels['kind'] in losses),
      *(arm for part in parts for arm in list(part)[:2]),
      *anatomy(1, ['prompts_per_task=8', 'num_completions=4'], few),
      *list(function_space(
          ['prompts_per_task=8', 'num_completions=4'],
          ('--prompts=24', '--splits=3'),
      ))[:1],
  ]

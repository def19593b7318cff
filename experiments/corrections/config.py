"""Four tasks of the zoo, by a method that is named.

    python -m gradlens.main --config=experiments/corrections/config.py ...

The method follows a colon, and keys that: `config.py:pcgrad,seed=1`.
"""

import ml_collections

from experiments.zoo import config as zoo

TASKS = 'gcd', 'palindrome', 'spell', 'sums'
# Held out, of the policy that all start with (experiments/zoo/model/README.md).
REWARDS = dict(gcd=0.454, palindrome=0.130, spell=0.560, sums=0.194)


def _lack() -> dict[str, float]:
  """What each task has to gain."""
  return {name: 1 - REWARDS[name] for name in TASKS}


def _correction(name: str, **changes) -> dict:
  return dict(correction=dict(name=name, **changes))


# What is changed of the config. The first is the one that others are compared
# with.
CORE = dict(
    total={},
    equalize_norms=_correction('equalize_norms'),
    task_advantage=dict(advantage=dict(scale='task')),
    # More prompts, or more weight, for tasks that have more to gain.
    fixed_mixture=dict(mixture=dict(
        kind='fixed', kwargs=dict(shares=_lack()), max_prompts=48
    )),
    fixed_weights=_correction(
        'constant', kwargs=dict(weights=tuple(_lack().values()))
    ),
    pcgrad=_correction('pcgrad'),
    mgs=_correction('pcgrad', blocks='layer'),
    imtl_g=_correction('imtl_g'),
    upgrad=_correction('upgrad'),
    nash_mtl=_correction('nash_mtl'),
    mt_grpo=_correction('mt_grpo'),
    gradient_sampling=dict(mixture=dict(kind='gradient', max_prompts=64)),
)
# One seed each, untuned: that they run, and what they do.
OTHERS = {
    name: _correction(name) for name in (
        'random_weights', 'mgda', 'cagrad', 'gradvac', 'dual_proj',
        'aligned_mtl', 'fairgrad', 'conflict_free', 'gradnorm', 'famo',
        'uncertainty_weighting', 'dwa', 'stch', 'krum', 'pcd',
    )
} | {
    name: _correction(name, kind='cross') for name in ('modo', 'sdmgrad')
} | {
    kind: dict(mixture=dict(kind=kind, max_prompts=64))
    for kind in ('sec', 'dump', 'pac', 'aligned')
} | dict(mt_grpo_mixture=dict(mixture=dict(kind='mt_grpo', max_prompts=64)))
METHODS = CORE | OTHERS


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The method that is named, with keys after it."""
  name, *keys = (arg or 'total').split(',')
  if name not in METHODS:
    raise ValueError(
        f'experiments/corrections/config.py has no method {name!r}; there are'
        f' {", ".join(METHODS)}.'
    )
  c = zoo.get_config(','.join(['+'.join(TASKS), *keys]))
  with c.unlocked():
    c.update(METHODS[name])
  return c

"""Tasks of the zoo, one of them perhaps with a larger or smaller gradient.

    python -m gradlens.main --config=experiments/causes/config.py:gcd+spell ...

Keys follow, of which `dose=gcd@4` multiplies the gradient of a task by 4; the
sum of all is then as long as it was without.
"""

import ml_collections

from experiments.zoo import config as zoo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """That of the zoo, with the dose."""
  parts = (arg or '').split(',')
  doses = [part for part in parts if part.startswith('dose=')]
  c = zoo.get_config(','.join(part for part in parts if part not in doses))
  for dose in doses:
    task, at, factor = dose.removeprefix('dose=').partition('@')
    if not at or task not in c.tasks:
      raise ValueError(
          f'{dose!r} is not of the form dose=TASK@FACTOR with a task of'
          f' {"+".join(c.tasks)}.'
      )
    with c.unlocked():
      c.correction.update(
          name='constant', match_norm=True,
          kwargs=dict(weights=tuple(
              float(factor) if name == task else 1.0 for name in c.tasks
          )),
      )
  return c

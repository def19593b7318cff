"""The warm start that the package ships: supervised, from random parameters.

    make warm-start

takes about 10 minutes on 2 idle cores and writes gradlens/models/warm, whose
README.md has the held-out rewards: between 0.15 and 0.49.
"""

import ml_collections

from gradlens.configs import toy


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Likelihood of the reference answers of the tasks of `toy`."""
  c = toy.get_config()
  with c.unlocked():
    c.init_from = ''
    c.objective = 'supervised'
    c.num_steps = 600
    c.prompts_per_task = 48
    # Spelling backward is learned long before the rest, and would leave nothing
    # to reinforce; sums are learned last.
    c.correction.name = 'constant'
    c.correction.kwargs = dict(weights=(1.0, 2.0, 1.0, 0.1))
    c.num_splits = 1
    c.optimizer.learning_rate = 2e-3
    c.optimizer.warmup_steps = 50
    c.evaluate.every = 50
    c.checkpoint.every = 50
    toy.default.parse_arg(c, arg)
  return c

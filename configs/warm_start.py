"""Warm start."""

import ml_collections

from gradlens.configs import toy


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Supervised."""
  c = toy.get_config()
  with c.unlocked():
    c.objective = 'supervised'
    c.num_steps = 600
    c.prompts_per_task = 48
    c.instrument_every = 0
    c.optimizer.learning_rate = 2e-3
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_steps = 100
    c.evaluate.every = 100
    c.checkpoint.every = 100
    toy.default.parse_arg(c, arg)
  return c

"""The model that runs of `config.py` start with, from random parameters.

    export PYTHONHASHSEED=0
    python -m gradlens.main --config=experiments/zoo/start.py --workdir=runs/zoo
    python -m gradlens.export --workdir=runs/zoo --output=experiments/zoo/model
"""

import ml_collections

from experiments.zoo import config as zoo


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Likelihood of the reference answers of all tasks of `config.py`."""
  c = zoo.get_config()
  with c.unlocked():
    c.init_from = ''
    c.objective = 'supervised'
    c.num_steps = 700
    c.prompts_per_task = 16
    c.num_splits = 1
    c.instrument_every = 0
    c.optimizer.learning_rate = 2e-3
    c.optimizer.schedule = 'cosine'
    c.optimizer.warmup_steps = 50
    c.evaluate.every = 175
    c.evaluate.num_completions = 2
    c.checkpoint.every = 175
    zoo.default.parse_arg(c, arg)
  return c

"""Takes gradients apart at the first policy (see `anatomy`).

    python -m experiments.imbalance.measure --config=experiments/zoo/config.py

Prints one line of JSON: the stages of every task, and what is known of each
prompt.
"""

import json

from absl import app, flags
from ml_collections import config_flags

from experiments.imbalance import anatomy

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Of a run.')
_BATCHES = flags.DEFINE_integer('batches', 8, 'Of prompts_per_task prompts.')
_TOKEN_PROMPTS = flags.DEFINE_integer(
    'token_prompts', 8, 'Prompts of a batch whose first completion is taken'
    ' apart into tokens.',
)


def main(argv: list[str]) -> None:
  """Measures, and prints."""
  del argv
  found = anatomy.measure(
      _CONFIG.value, _BATCHES.value, _TOKEN_PROMPTS.value
  )
  print(json.dumps({
      name: dict(stages=task.stages(), prompts=task.prompts)
      for name, task in found.items()
  }))


if __name__ == '__main__':
  flags.mark_flags_as_required(['config'])
  app.run(main)

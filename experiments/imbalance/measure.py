"""Takes gradients apart at the first policy.

    python -m experiments.imbalance.measure --config=experiments/zoo/config.py
    python -m experiments.imbalance.measure --kind=function_space --config=...

Prints one line of JSON. Of an anatomy, the stages of every task, and what is
known of each prompt; of a function space, a row for each pair of tasks.
"""

import json

from absl import app, flags
from ml_collections import config_flags

from experiments.imbalance import anatomy, function_space

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Of a run.')
_KIND = flags.DEFINE_enum(
    'kind', 'anatomy', ['anatomy', 'function_space'], 'Module with that name.'
)
_PROMPTS = flags.DEFINE_integer(
    'prompts', 1024, 'Of each task, for a step in function space.'
)
_SPLITS = flags.DEFINE_integer('splits', 8, 'Independent parts of them.')
_BATCHES = flags.DEFINE_integer('batches', 8, 'Of prompts_per_task prompts.')
_TOKEN_PROMPTS = flags.DEFINE_integer(
    'token_prompts', 8, 'Prompts of a batch whose first completion is taken'
    ' apart into tokens.',
)


def main(argv: list[str]) -> None:
  """Measures, and prints."""
  del argv
  if _KIND.value == 'function_space':
    moved = function_space.measure(
        _CONFIG.value, _PROMPTS.value, _SPLITS.value
    )
    print(json.dumps(function_space.as_rows(moved)))
    return
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

"""Program: a config compiled for TPUs that are not here.

    pip install '.[train,aot]'
    python -m gradlens.aot --config=configs/multidomain.py --topology=v5p:4x4x4

Compiles the training step and the sampler, and prints what a chip needs:
memory, operations, what it sends, and an estimate of the time from public
figures of the chip. With --compare also the step without the decomposition. The
exit code is 1 where something does not fit.
"""

import importlib.util
import json
import pathlib
import sys

from gradlens import command

with command.imports('train'):
  from absl import app, flags
  from ml_collections import config_flags

with command.imports('aot'):
  if importlib.util.find_spec('libtpu') is None:
    raise ModuleNotFoundError(name='libtpu')
  from gradlens.aot import chips, figures
  from gradlens.aot.needs import needs, use_no_device

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'A slice of TPUs, as v5e:8x8 or v5p:4x4x4.'
)
_COMPARE = flags.DEFINE_bool(
    'compare', False, 'Without the decomposition too, and the ratios.'
)
_JSON = flags.DEFINE_bool(
    'json', False, 'The same as JSON, the last line of the output.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'A file for that JSON.')
_TRIPS = flags.DEFINE_integer(
    'loop_trips', None, 'How often a loop runs whose data decide it.',
    lower_bound=0,
)


def main(argv: list[str]) -> None:
  """Compiles, counts and prints."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  use_no_device()
  command.show_progress()
  with command.one_sentence():
    config = _CONFIG.value
    results = needs(
        config, _TOPOLOGY.value, compare=_COMPARE.value,
        loop_trips=_TRIPS.value,
    )
    print(figures.table(results, chips.of_topology(_TOPOLOGY.value)))
  if config.correction.apply == 'stacked':
    print('correction.apply=stacked is divided by the compiler; see'
          ' docs/pods.md for what that costs.')
  line = json.dumps(results)
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(f'{line}\n')
  if _JSON.value:
    print(line)
  if not all(each['fits'] for each in results.values()):
    sys.exit(1)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'topology'])
  parser = command.flags_parser('aot', '--topology=v5p:4x4x4')
  app.run(main, flags_parser=parser)

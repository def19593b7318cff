"""Exports a run's newest parameters as a Hugging Face model directory."""

import json

from absl import app, flags
from etils import epath

from gradlens import checkpoint, models

_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
_OUTPUT = flags.DEFINE_string('output', None, 'The directory to write.')
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the stored tensors.')


def main(argv: list[str]) -> None:
  """Writes weights, config, tokenizer, and where they come from."""
  del argv
  try:
    config = checkpoint.read_config(_WORKDIR.value)
    model, params, tokenizer = checkpoint.load_model(_WORKDIR.value)
  except ValueError as error:
    raise SystemExit(f'gradlens: {error}') from error
  models.save(model, params, _OUTPUT.value, tokenizer, dtype=_DTYPE.value)
  (epath.Path(_OUTPUT.value) / 'run_config.json').write_text(
      json.dumps(config, indent=1)
  )
  print(f'Wrote {_OUTPUT.value}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['workdir', 'output'])
  app.run(main)

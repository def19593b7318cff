"""Rows of a few prompts each, at the first policy: what estimators are made of.

    python -m experiments.estimators.measure --config=... --rows=runs/rows.npz

Parameters do not move, so that all steps have one truth: the products of all
pairs of different rows. A step is STEP rows of a task. Saved are the inner
products of all rows, block by block, and the same from sketches.
"""

import pathlib

from absl import app, flags
import jax
from ml_collections import config_flags
import numpy as np

import gradlens as gl
from gradlens import measurement

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Of a run.')
_STEPS = flags.DEFINE_integer('steps', 32, 'How many steps are made of rows.')
_ROWS = flags.DEFINE_string('rows', None, 'The file to write.')
STEP = 4  # rows of a task in a step
SIZES = 64, 256, 1024, 4096


def main(argv: list[str]) -> None:
  """Samples, decomposes, and saves."""
  del argv
  num_splits = STEP * _STEPS.value
  rows = measurement.sample_rows(
      _CONFIG.value, num_splits=num_splits,
      num_prompts=num_splits * _CONFIG.value.prompts_per_task,
  )
  grams = measurement.inner_products(rows)
  scale_Rx1 = rows.scale_R[:, None]
  sketches = {
      f'sketch_{size}': np.asarray(
          jax.jit(gl.sketch, static_argnums=1)(rows.rows_RxP, size)
      ) * scale_Rx1 for size in SIZES
  }
  path = pathlib.Path(_ROWS.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(
      path, names=np.array(rows.names), steps=_STEPS.value, **sketches,
      **{f'block_{name}': gram for name, gram in grams.blocks.items()},
  )


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'rows'])
  app.run(main)

"""Runs the study of estimators, and writes its tables.

    make study NAME=estimators
"""

import json
import pathlib

from absl import app
import numpy as np
import pandas as pd

from experiments import study, tables
from experiments.estimators import estimators, measure
from experiments.zoo import config as zoo

_HERE = pathlib.Path(__file__).parent
_CONFIG = 'experiments/zoo/config.py'


def arms(folder: pathlib.Path, smoke: bool) -> list[study.Arm]:
  """Rows of four tasks, and the blocks of all eighteen."""
  keys = f'seed={zoo.SEEDS[0]},prompts_per_task={2 if smoke else 8}'
  steps, prompts = (3, 6) if smoke else (32, 256)
  return [
      study.Arm(
          dict(part='rows'), 'experiments.estimators.measure',
          f'{_CONFIG}:gcd+palindrome+spell+sums,{keys}',
          (f'--rows={folder.relative_to(study.ROOT) / "rows.npz"}',
           f'--steps={steps}'),
      ),
      study.Arm(
          dict(part='blocks'), 'gradlens.measure', f'{_CONFIG}:{keys}',
          (f'--prompts={prompts}', f'--splits={3 if smoke else 8}', '--json'),
      ),
  ]


def of_steps(rows: estimators.Rows) -> pd.DataFrame:
  """A row per step, task and estimator."""
  return pd.DataFrame([
      dict(estimator=name, step=t, task=task, norm_sq=values_TxK[t, k])
      for name, values_TxK in estimators.of_steps(rows.whole).items()
      for t in range(len(values_TxK)) for k, task in enumerate(rows.names)
  ])


def truths(rows: estimators.Rows) -> pd.DataFrame:
  """A row per task."""
  bounds = estimators.truth(rows.whole)
  return pd.DataFrame(
      np.stack(bounds, -1), columns=['norm_sq', 'low', 'high']
  ).assign(task=rows.names)


def sketches(rows: estimators.Rows) -> pd.DataFrame:
  """A row per size and task."""
  return pd.DataFrame([
      dict(size=size, task=task, error=error_K[k])
      for size, error_K in estimators.sketch_errors(rows).items()
      for k, task in enumerate(rows.names)
  ])


def blocks(printed: str) -> pd.DataFrame:
  """Squared norms of every task in every block, and in all."""
  found = json.loads(printed)
  return pd.DataFrame([
      dict(block=block, task=task,
           norm_sq=share * found['norm_sq'][task][0],
           whole=found['norm_sq'][task][0])
      for block, shares in found['layer_shares'].items()
      for task, share in shares.items() if share is not None
  ])


def main(argv: list[str]) -> None:
  """Runs what is not done, then reads it."""
  del argv
  folder, results, _ = study.folders(_HERE, study.VARIANT.value)
  chosen = arms(folder, study.VARIANT.value == 'smoke')
  outcomes = study.run(chosen, folder, study.JOBS.value)
  rows = estimators.load(folder / 'rows.npz', measure.STEP)
  ratios = pd.DataFrame([estimators.ratios(rows.whole)._asdict()])
  tables.write(dict(
      steps=of_steps(rows), truth=truths(rows), ratios=ratios,
      sketches=sketches(rows), blocks=blocks(outcomes['blocks'].printed),
      runs=tables.provenance(chosen, outcomes),
  ), results)


if __name__ == '__main__':
  app.run(main)

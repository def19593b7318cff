"""Exports a run's parameters as a Hugging Face model directory.

    python -m gradlens.export --workdir=DIR --output=DIR

They are those of the newest checkpoint; `--workdir=DIR@best` takes the best,
and `DIR@40` that of step 40. Beside weights, config and tokenizer it writes
where they come from: to read in README.md, and for programs in training.json.
"""

import json
from typing import Any

from gradlens import command

with command.imports('train'):
  from absl import app, flags
  from etils import epath

  from gradlens import models
  from gradlens.report import history
  from gradlens.workdir import checkpoint

_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
_OUTPUT = flags.DEFINE_string('output', None, 'The directory to write.')
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the stored tensors.')

_RECORDED_STEPS = 5
_CARD = """\
# A model trained with gradlens

{steps} steps of the objective `{objective}` with gradlens {version}, seed
{seed}. Files are in the Hugging Face layout; `training.json` has the whole
config, the versions of packages, and the losses of the first steps.

| task | source | held-out reward, first to last | prompts | data |
|---|---|---|---:|---|
{rows}

Held-out rewards are means over prompts that were not trained on, at temperature
{temperature}; the last column is a hash of all prompts and answers.
"""


def provenance(workdir: epath.PathLike) -> dict[str, Any]:
  """Where a run's parameters come from, JSON-able.

  Raises:
    ValueError: there is no run, or no checkpoint.
  """
  workdir, which = checkpoint.split_step(workdir)
  run = history.load(workdir)
  with checkpoint.open_states(workdir, which) as saved:
    step, data = saved.find(which), saved.restore_data(which)
  return dict(
      config=run.config,
      versions=run.versions,
      steps=step,
      data=data['tasks'],
      heldout={task: _heldout(run, task, step) for task in run.tasks},
      losses={
          task: run.values(f'loss/{task}')[:_RECORDED_STEPS].tolist()
          for task in run.tasks
      },
  )


def _heldout(run: history.Run, task: str, step: int) -> dict[str, Any]:
  """Of the first evaluation, and of the last one up to a step."""
  steps = sorted(s for s in run.evals if s <= step)
  first, last = (run.evals[s][task] for s in (steps[0], steps[-1]))
  return dict(
      first=float(first.mean()), last=float(last.mean()), prompts=len(last)
  )


def card(origin: dict[str, Any]) -> str:
  """README.md of `provenance`."""
  config = origin['config']
  rows = [
      f'| {task} | `{spec["source"]}` |'
      f' {reward["first"]:.3f} to {reward["last"]:.3f} | {reward["prompts"]} |'
      f' `{origin["data"][task]}` |'
      for task, spec in config['tasks'].items()
      for reward in [origin['heldout'][task]]
  ]
  return _CARD.format(
      steps=origin['steps'], objective=config['objective'],
      version=origin['versions']['gradlens'], seed=config['seed'],
      rows='\n'.join(rows), temperature=config['evaluate']['temperature'],
  )


def main(argv: list[str]) -> None:
  """Writes weights, config, tokenizer, and where they come from."""
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  command.show_progress()
  output = epath.Path(_OUTPUT.value)
  with command.one_sentence():
    origin = provenance(_WORKDIR.value)
    model, params, tokenizer = checkpoint.load_model(_WORKDIR.value)
    models.save(model, params, output, tokenizer, dtype=_DTYPE.value)
  (output / 'training.json').write_text(json.dumps(origin, indent=1))
  (output / 'README.md').write_text(card(origin))
  print(f'Wrote {output}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['workdir', 'output'])
  app.run(main)

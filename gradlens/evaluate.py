"""Evaluates a model on the held-out prompts of a config's tasks.

    python -m gradlens.evaluate --config=configs/toy.py \
      --config.init_from=runs/a@best --config.evaluate.num_completions=8 --k=1,8

`init_from` is a run (`RUN`, its newest checkpoint; `RUN@40`; `RUN@best`), a
Hugging Face directory or a name on the hub. Completions, temperature (0 takes
the likeliest token) and key are those of the evaluations of a run.
"""

from collections.abc import Sequence
import functools
import json
from typing import Any, NamedTuple

import numpy as np

import gradlens as gl
from gradlens import command

with command.imports('train'):
  from absl import app, flags
  import ml_collections
  from ml_collections import config_flags

  from gradlens import evaluation, hosts, models, text
  from gradlens.evaluation import passing
  from gradlens.report import tables
  from gradlens.report.summary import Estimate
  from gradlens.setup import build, sampling


class Row(NamedTuple):
  """What was found of a task.

  Attributes:
    prompts: how many were asked.
    reward: the mean; its interval is the jackknife's over prompts.
    passes: pass@k by k; see `passing.pass_rate`.
  """

  prompts: int
  reward: Estimate
  passes: dict[int, Estimate]


def evaluate(
    config: ml_collections.ConfigDict, *, ks: Sequence[int] = (1,),
    passes_from: float = 1.0,
) -> dict[str, Row]:
  """Samples and scores completions of all held-out prompts.

  Args:
    config: of a run; `init_from` says what is evaluated.
    ks: of the columns pass@k.
    passes_from: the reward from which on a completion passes.

  Returns:
    A row for each task.

  Raises:
    ValueError: one sentence on what is wrong, before any work.
  """
  config = config.copy_and_resolve_references()
  total = config.evaluate.num_completions
  for k in ks:
    if not 1 <= k <= total:
      raise ValueError(
          f'--k={k} must be from 1 to evaluate.num_completions={total}.'
      )
  run = build.setup(config)
  sample = sampling.sampler(config, run)
  with sampling.verifier(config, run) as verifier:
    result = evaluation.evaluate(
        sampling.heldout(config, run, sample, verifier),
        models.join(run.params, run.frozen), run.tasks,
        evaluation.key(config.seed), batch_size=config.evaluate.batch_size,
        decode=functools.partial(text.decode, run.tokenizer),
        score=verifier.score,
    )
  return {
      name: _row(rewards_NxG, ks, passes_from)
      for name, rewards_NxG in result.rewards.items()
  }


def _row(rewards_NxG: np.ndarray, ks: Sequence[int], passes_from: float) -> Row:
  means_N = rewards_NxG.mean(axis=1, dtype=np.float64)
  reward = Estimate(*map(float, gl.jackknife(np.mean, means_N)))
  passed_NxG = rewards_NxG >= passes_from
  return Row(len(means_N), reward, {
      k: Estimate(*passing.pass_rate(passed_NxG, k)) for k in ks
  })


def table(rows: dict[str, Row]) -> str:
  """The rows as text."""
  [first, *_] = rows.values()
  lines = [['task', 'prompts', 'reward [95%]',
            *(f'pass@{k} [95%]' for k in first.passes)]]
  for name, row in rows.items():
    numbers = (row.reward, *row.passes.values())
    lines.append([
        name, str(row.prompts),
        *(tables.bracket(tables.fixed, *interval) for interval in numbers),
    ])
  return tables.aligned(lines)


def _json(rows: dict[str, Row]) -> str:
  def plain(row: Row) -> dict[str, Any]:
    passes = {f'pass@{k}': own._asdict() for k, own in row.passes.items()}
    return dict(prompts=row.prompts, reward=row.reward._asdict(), **passes)

  return json.dumps({name: plain(row) for name, row in rows.items()})


def _integers(texts: Sequence[str]) -> list[int]:
  try:
    return [int(own) for own in texts]
  except ValueError:
    raise ValueError(
        f'--k={",".join(texts)} must be whole numbers, as 1,8.'
    ) from None


def _define_flags() -> None:
  # Not on import: measure has flags of the same names, and a process may use
  # both modules.
  config_flags.DEFINE_config_file(
      'config', None, 'Config file, with its argument after a colon.',
      lock_config=True,
  )
  command.host_flags()
  flags.DEFINE_list(
      'k', ['1'], 'Completions of which one has to pass, for each column.'
  )
  flags.DEFINE_float(
      'passes_from', 1.0, 'The reward from which on a completion passes.'
  )
  flags.DEFINE_bool('json', False, 'Print all as one last line, too.')
  flags.mark_flags_as_required(['config'])


def main(argv: list[str]) -> None:
  """Evaluates and prints."""
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f'not understood: {" ".join(argv[1:])}')
  command.show_progress()
  with command.on_hosts():
    rows = evaluate(
        given.config, ks=_integers(given.k), passes_from=given.passes_from
    )
    if hosts.first():
      print(table(rows))
      if given.json:
        print(_json(rows))


if __name__ == '__main__':
  _define_flags()
  parser = command.flags_parser('evaluate', '--k=1')
  app.run(main, flags_parser=parser)

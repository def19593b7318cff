"""A GRPO step, and sampling alone, beside TRL, Tunix and `generate`.

    python -m benchmarks.grpo --trl=.venv-bench-trl/bin/python \
      --tunix=.venv-bench-tunix/bin/python

The same model, prompts, rewards, number of tokens and optimizer. All take
turns, each in a process of its own. A step is from one question for rewards to
the next: sampling, rewards and update; gradlens measures the gradients of both
tasks in it, by taps. Ratios are medians over the rounds.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

from absl import app, flags

from benchmarks import rounds, toy_tasks

_TRL = flags.DEFINE_string('trl', None, 'Python with gradlens[bench-trl].')
_TUNIX = flags.DEFINE_string(
    'tunix', None, 'Python with gradlens[bench-tunix].'
)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Runs of each.')
_SHAPES = {
    'tiny': toy_tasks.Shape(
        width=64, layers=2, prompts=2, completions=4, new=16, steps=60
    ),
    '6M': toy_tasks.Shape(
        width=256, layers=6, prompts=8, completions=4, new=32, steps=14
    ),
}


def seconds(python: str, peer: str, work: str, shape: toy_tasks.Shape) -> float:
  """Of a step, in a process of its own."""
  script = pathlib.Path(__file__).parent / f'{peer}_peer.py'
  done = subprocess.run(
      [python, script, json.dumps(dataclasses.asdict(shape)), work],
      stdout=subprocess.PIPE, text=True, check=True,
      env=os.environ | dict(
          HF_HUB_OFFLINE='1', JAX_PLATFORMS='cpu', TOKENIZERS_PARALLELISM='0'
      ),
  )
  return float(done.stdout.splitlines()[-1].removeprefix('seconds '))


def main(argv: list[str]) -> None:
  """Prints a row for each."""
  del argv
  pythons = dict(gradlens=sys.executable, trl=_TRL.value, tunix=_TUNIX.value)
  names = dict(
      train=dict(gradlens='gradlens, by taps', trl='TRL', tunix='Tunix'),
      sample=dict(
          gradlens='gradlens', trl='transformers `generate`',
          tunix='Tunix, vanilla',
      ),
  )
  print('| model | | | seconds | gradlens is |')
  print('|---|---|---|---:|---:|')
  for size, shape in _SHAPES.items():
    for work, own in names.items():
      found = {peer: [] for peer in own if pythons[peer]}
      for _ in range(_ROUNDS.value):
        for peer, values in found.items():
          values.append(seconds(pythons[peer], peer, work, shape))
      for peer, values in found.items():
        ratio = rounds.median_ratio(found['gradlens'], values)
        print(
            f'| {size} | {work} | {own[peer]} | {statistics.median(values):.4f}'
            f' | {ratio:.2f}x |',
            flush=True,
        )


if __name__ == '__main__':
  app.run(main)

"""How long a report takes to write, and its page to open in a browser.

    python -m benchmarks.report --runs=10 --steps=1000

Runs of made-up numbers, written by the program's own writers: two corrections,
seeds of each. Needs chromium or google-chrome on the path.
"""

from collections.abc import Iterator, Sequence
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

from absl import app, flags
import numpy as np

from gradlens import evaluation, report
from gradlens.configs import toy
from gradlens.workdir import claim, journal

_RUNS = flags.DEFINE_integer('runs', 10, 'How many runs are compared.')
_STEPS = flags.DEFINE_integer('steps', 1000, 'Training steps of each.')
_LAYERS = flags.DEFINE_integer('layers', 24, 'Layers of the model.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'How often the page is opened.')
_OUTPUT = flags.DEFINE_string('output', None, 'Keeps runs and page here.')

# Per task; a level, and the noise of a single step in parts of it.
_LEVELS = {
    'norm_sq/unbiased': (0.01, 1.0), 'norm_sq/naive': (0.1, 0.2),
    'intrinsic_norm_sq/unbiased': (0.1, 1.0),
    'intrinsic_norm_sq/naive': (1.0, 0.2), 'noise_trace': (0.1, 0.2),
    'snr': (0.1, 1.0), 'critical_batch_size': (300.0, 1.0),
    'share/before': (0.25, 0.3), 'share/after': (0.25, 0.3),
    'share/optimizer': (0.25, 0.3), 'gain/predicted': (0.01, 0.5),
    'weight': (1.0, 0.1), 'reward': (0.5, 0.1), 'reward_std': (0.3, 0.1),
    'pass_rate': (0.4, 0.1), 'zero_advantage': (0.3, 0.2),
    'length': (100.0, 0.1), 'tokens': (20000.0, 0.1), 'entropy': (1.0, 0.1),
    'abs_advantage': (0.7, 0.1), 'sampler_gap': (0.01, 0.1),
    'loss': (0.0, 0.1), 'prompts': (32.0, 0.0), 'prompt_share': (0.25, 0.0),
    'truncated': (0.1, 0.2), 'refilled': (0.0, 0.0), 'unfilled': (0.0, 0.0),
    'verifier_errors': (0.0, 0.0), 'verifier_timeouts': (0.0, 0.0),
    'skipped': (0.0, 0.0),
}
_EVERY = 50


def _scalars(
    tasks: Sequence[str], steps: int, layers: int, rng: np.random.Generator,
) -> Iterator[dict[str, float]]:
  """The metrics of every step."""
  levels = {f'{tag}/{task}': level for tag, level in _LEVELS.items()
            for task in tasks}
  blocks = ['embed', 'head', *(f'layers.{i:02d}' for i in range(layers))]
  levels |= {f'layer_norm_sq/{block}/{task}': (0.001, 1.0)
             for block in blocks for task in tasks}
  levels |= {f'inner/{one}/{other}': (0.0, 0.1)
             for i, one in enumerate(tasks) for other in tasks[i + 1:]}
  means, noises = np.array(list(levels.values())).T
  for _ in range(steps):
    values = means + rng.normal(size=means.shape) * noises * (
        np.where(means > 0, means, 0.01))
    yield dict(zip(levels, values.tolist(), strict=True))


def _samples(tasks: Sequence[str], step: int) -> dict[str, str]:
  return {f'samples/{task}': json.dumps([
      dict(prompt=f'prompt {i} of {task}', completion=f'step {step} ' * 80,
           answer=str(i), reward=float(i % 2), reason='as made up')
      for i in range(8)]) for task in tasks}


def write_run(
    workdir: pathlib.Path, correction: str, seed: int, steps: int, layers: int,
) -> None:
  """A run of made-up numbers."""
  config = toy.get_config(
      f'correction={correction},seed={seed},num_steps={steps}').to_dict()
  claim.claim(workdir, config)
  rng = np.random.default_rng([seed, len(correction)])
  tasks = list(config['tasks'])
  writer = journal.HistoryWriter(workdir)
  for step, scalars in enumerate(_scalars(tasks, steps, layers, rng), start=1):
    writer.write_scalars(step, scalars)
    if step % _EVERY == 0 or step == steps:
      rewards = {task: rng.uniform(size=(256, 4)).astype(np.float32)
                 for task in tasks}
      evaluation.write(workdir, step, evaluation.Evaluation(rewards, {}))
      writer.write_texts(step, _samples(tasks, step))
  writer.close()


def _open(browser: str, page: pathlib.Path) -> int:
  """Milliseconds from asking for the page until all is drawn."""
  with tempfile.TemporaryDirectory() as profile:
    done = subprocess.run(
        [browser, '--headless=new', '--no-sandbox', '--disable-gpu',
         '--window-size=1440,900', f'--user-data-dir={profile}', '--dump-dom',
         page.as_uri()], capture_output=True, text=True, check=True)
  return int(re.search(r'data-milliseconds="(\d+)"', done.stdout)[1])


def main(argv: Sequence[str]) -> None:
  """Prints sizes and times."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  browser = shutil.which('chromium') or shutil.which('google-chrome')
  if browser is None:
    raise SystemExit('chromium or google-chrome must be on the path.')
  with tempfile.TemporaryDirectory() as scratch:
    root = pathlib.Path(_OUTPUT.value or scratch).resolve()
    runs = [root / f'run{i}' for i in range(_RUNS.value)]
    for i, run in enumerate(runs):
      run.mkdir(parents=True)
      write_run(run, ('total', 'pcgrad')[i % 2], i // 2, _STEPS.value,
                _LAYERS.value)
    start = time.monotonic()
    page = pathlib.Path(report.write(runs))
    seconds = time.monotonic() - start
    opened = [_open(browser, page) for _ in range(_REPEATS.value)]
    print(f'{_RUNS.value} runs of {_STEPS.value} steps: page of '
          f'{page.stat().st_size / 1e6:.1f} MB, written in {seconds:.1f} s, '
          f'drawn in {statistics.median(opened)} ms '
          f'({min(opened)} to {max(opened)})')


if __name__ == '__main__':
  app.run(main)

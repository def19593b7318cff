"""What it saves to verify the next batch while the update is computed.

    python -m benchmarks.overlap --verify_seconds=0.01 \
      --config=configs/toy.py:prompts_per_task=8

Two runs of a config with `rollout.lag=1` take turns, step by step: in one the
update waits until the next batch is verified, in the other it does not. They
have the same verifiers, each of which computes for as long as is asked for
before it scores, and must come to the same parameters. A step is timed to its
end, results included. Times are medians, and the ratio is the median of the
ratios of neighbors.
"""

from collections.abc import Callable
import statistics
import tempfile
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags
import numpy as np

from benchmarks import busy, rounds
from gradlens import rollout, tasks, train
from gradlens.feed import ahead
from gradlens.setup import build, goal, mixing, sampling
from gradlens.step import train_step
from gradlens.step.optimizer import make_optimizer

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
_REPEATS = flags.DEFINE_integer('repeats', 8, 'Steps of each that count.')
_VERIFY_SECONDS = flags.DEFINE_float(
    'verify_seconds', 0.01, 'CPU time of a completion, beside its verifier.'
)
_WARM_UP = 3  # steps before: two programs are compiled, and workers start

# The seconds of a step, of its verification, and the state after it.
Timed = tuple[float, float, train_step.TrainState]


def stepper(
    config: ml_collections.ConfigDict, run: build.Setup,
    sample: rollout.Sampler, scorer: tasks.Verifier, late: tasks.Late,
    overlap: bool,
) -> Callable[[int], Timed]:
  """The steps of a run, one at a call."""
  optimizer = make_optimizer(config, len(run.tasks), None)
  # A step is given its state to write on.
  run = run._replace(params=jax.tree.map(jnp.copy, run.params))
  objective = goal.make_objective(
      config, run.stop_tokens, sampling.rewards(config, run).weights_KxM
  )
  step_fn = build.steps(config, run.model, optimizer, objective, run.mesh)[True]
  mixture = mixing.mixture(config, run.tasks)
  turn = ahead.Turns(
      mixing.feed(
          config, run, mixture, mixture.init(),
          sampling.answers(config, run, sample, scorer),
      ),
      late, run.mesh, end=_WARM_UP + _REPEATS.value + 1, lag=1, overlap=overlap,
      refills=config.mixture.refill_rounds > 0, meanwhile=lambda: None,
  )
  state = train.first_state(run, optimizer, jax.random.key(config.seed))

  def step(number: int) -> Timed:
    nonlocal state
    start = time.perf_counter()
    sampled, state, _ = turn(state, number, step_fn)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return seconds, sampled.seconds['verify'], state

  return step


def check_same(
    serial: train_step.TrainState, overlapped: train_step.TrainState
) -> None:
  """Refuses times of two runs that are not one and the same.

  Raises:
    RuntimeError: their parameters differ.
  """
  same = jax.tree.map(np.array_equal, serial.params, overlapped.params)
  if not all(jax.tree.leaves(same)):
    raise RuntimeError('the two runs have come to different parameters')


def main(argv: list[str]) -> None:
  """Prints a row for each."""
  del argv
  config = _CONFIG.value
  config.rollout.lag = 1
  # A busy machine must not change a reward.
  config.verifier.update(cpu_seconds=60.0, wall_seconds=600.0)
  config.num_steps = _WARM_UP + _REPEATS.value + 1
  run = build.setup(config)
  run = run._replace(tasks=[
      task._replace(verify=busy.Busy(task.verify, _VERIFY_SECONDS.value))
      for task in run.tasks
  ])
  sample = sampling.sampler(config, run)
  with (
      tempfile.TemporaryDirectory() as folder,
      sampling.verifier(config, run) as scorer,
  ):
    late = tasks.Late(folder, 0)
    serial, overlapped = (
        stepper(config, run, sample, scorer, late, overlap)
        for overlap in (False, True)
    )
    for number in range(_WARM_UP):
      serial(number), overlapped(number)
    pairs = [
        (serial(number), overlapped(number))
        for number in range(_WARM_UP, _WARM_UP + _REPEATS.value)
    ]
  check_same(*(state for *_, state in pairs[-1]))
  kind = jax.devices()[0].device_kind
  print(
      f'{kind}, jax {jax.__version__}, {_REPEATS.value} repeats,'
      f' {_VERIFY_SECONDS.value} s for each completion'
  )
  print('| | seconds | of which verifiers | |')
  print('|---|---:|---:|---:|')
  base = [seconds for (seconds, *_), _ in pairs]
  for name, own in zip(('serial', 'overlapped'), zip(*pairs, strict=True),
                       strict=True):
    seconds, verify, _ = zip(*own, strict=True)
    ratio = rounds.median_ratio(seconds, base)
    print(
        f'| {name} | {statistics.median(seconds):.2f} |'
        f' {statistics.median(verify):.2f} | {ratio:.2f}x |'
    )


if __name__ == '__main__':
  flags.mark_flags_as_required(['config'])
  app.run(main)

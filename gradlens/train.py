"""Train: builds everything from a config, then a loop that does I/O only."""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import logging
import signal
import threading
import time
from typing import Any

from clu import metric_writers
from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import ml_collections
import numpy as np
import optax
from tqdm import tqdm

import gradlens as gl
from gradlens import (
    build,
    checkpoint,
    evaluate,
    hosts,
    metrics,
    models,
    rollout,
    tasks,
    text,
)
from gradlens.mixture import Mixture
from gradlens.optimizer import Optimizer, make_optimizer
from gradlens.profile import tracing
from gradlens.report import history
from gradlens.train_step import TrainState

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _on_sigterm() -> Iterator[threading.Event]:
  """An event that is set, instead of dying, when the run is asked to end."""
  asked = threading.Event()
  # Only the main thread may handle signals, and of several hosts jax does.
  elsewhere = threading.current_thread() is not threading.main_thread()
  if elsewhere or jax.process_count() > 1:
    yield asked
    return
  previous = signal.signal(signal.SIGTERM, lambda *unused: asked.set())
  try:
    yield asked
  finally:
    signal.signal(signal.SIGTERM, previous)


class _Progress:
  """A line now and then: rate, time left, and the tasks' numbers."""

  def __init__(self, first: int, total: int, seconds: float, shown: str):
    self._first, self._total, self._seconds = first, total, seconds
    self._tag = shown
    self._start, self._shown = time.monotonic(), -float('inf')

  def __call__(self, step: int, scalars: metrics.Scalars, names: Sequence[str]):
    now = time.monotonic()
    if now - self._shown < self._seconds and step < self._total:
      return
    self._shown = now
    meter = tqdm.format_meter(
        step, self._total, now - self._start, initial=self._first,
        unit=' step', bar_format='step {n_fmt}/{total_fmt}, {rate_fmt}{postfix}'
        ', {elapsed} passed, {remaining} left',
    )
    parts = []
    for name in names:
      part = f'{name} {scalars[f"{self._tag}/{name}"]:.2f}'
      for kind in ('unbiased', 'naive'):
        tag = f'norm_sq/{kind}/{name}'
        if tag in scalars:
          part += f' ({scalars[tag]:.2g})'
          break
      parts.append(part)
    _log.info('%s | %s (squared norm): %s', meter, self._tag, ', '.join(parts))


class _Writers:
  """Several metric writers as one."""

  def __init__(self, writers: Sequence[Any]):
    self._writers = writers

  def scalars(self, step: int, scalars: metrics.Scalars) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def texts(self, step: int, texts: dict[str, str]) -> None:
    for writer in self._writers:
      writer.write_texts(step, texts)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()


def _resolve(
    config: ml_collections.ConfigDict, weighting: gl.Weighting | None
) -> ml_collections.ConfigDict:
  """The config as it will be recorded.

  Raises:
    ValueError: values that contradict each other.
  """
  config = config.copy_and_resolve_references()
  if weighting is not None:
    with config.unlocked():
      config.correction.name = weighting.name
      config.correction.kwargs = {}
  if config.correction.name != 'total' and config.instrument_every != 1:
    raise ValueError(
        f'instrument_every={config.instrument_every} leaves steps uncorrected,'
        f' but correction.name={config.correction.name!r} is to correct each;'
        " set instrument_every=1, or correction.name='total'."
    )
  return config


class _Recorder:
  """Writes a step's metrics once the next step is under way.

  Downloading them earlier would keep the device waiting.
  """

  def __init__(
      self, out: _Writers, progress: _Progress, names: Sequence[str],
      num_splits: int, schedule: optax.Schedule,
  ):
    self._out, self._progress = out, progress
    self._names, self._num_splits = names, num_splits
    self._schedule = schedule
    self._pending = None

  def push(self, step: int, sampled: Any, measured: Any, start: float) -> None:
    self.flush()
    # Not before: writing the last step's metrics may wait for this step.
    seconds = time.monotonic() - start
    self._pending = step, sampled, measured, seconds

  def flush(self) -> None:
    if self._pending is None:
      return
    step, sampled, measured, seconds = self._pending
    self._pending = None
    scalars = {
        **metrics.sampled_scalars(sampled, self._names),
        **metrics.step_scalars(measured, self._num_splits, self._names),
        'learning_rate': float(self._schedule(step - 1)),
        'seconds/step': seconds,
    }
    self._out.scalars(step, scalars)
    self._progress(step, scalars, self._names)


def first_state(
    run: build.Setup, optimizer: Optimizer, key: jax.Array
) -> TrainState:
  """With moments where their parameters are."""
  init = optimizer.corrected.init
  if run.mesh is not None:
    shapes = jax.eval_shape(init, run.params)
    specs = models.specs_like(shapes, run.params, models.specs(run.params))
    init = jax.jit(init, out_shardings=models.shardings(run.mesh, specs))
    everywhere = models.shardings(run.mesh, PartitionSpec())
    data = np.asarray(jax.random.key_data(key))
    key = jax.random.wrap_key_data(hosts.spread(data, everywhere))
  return TrainState(run.params, init(run.params), key, run.frozen)


def train(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    weighting: gl.Weighting | None = None,
    writers: Sequence[Any] = (),
    make_sampler: rollout.MakeSampler | None = None,
) -> history.Run:
  """Runs, or resumes, a multi-task training run.

  Parameters come from the workdir's own newest checkpoint if there is one,
  else from `config.init_from`, else they are drawn at random.

  Args:
    config: see `configs/default.py`.
    workdir: the run's folder.
    weighting: stands in for the correction that the config names.
    writers: further metric writers (`write_scalars`, `write_texts`, `flush`);
      the first host's are called.
    make_sampler: another engine for the rollouts (see `rollout.Sampler`); None
      is the policy's own.

  Returns:
    The run's history, which `gradlens.report` reads too. It ends early if the
    process was asked to end (SIGTERM); call again to go on.

  Raises:
    ValueError: one sentence on what is wrong with config or workdir, before
      any step.
  """
  config = _resolve(config, weighting)
  hosts.check_same({'--workdir': str(workdir)})
  run = build.setup(config)
  optimizer = make_optimizer(config, len(run.tasks), weighting)
  objective = build.objective(config)
  sample = build.sampler(config, run, make_sampler)
  rewards = jnp.zeros((len(run.tasks), 1, 1))
  gl.check(
      optimizer.corrected, run.params, num_tasks=len(run.tasks),
      num_splits=config.num_splits, apply=config.correction.apply,
      **objective.extras(rewards),
  )
  steps = build.steps(config, run.model, optimizer, objective, run.mesh)
  mixture = Mixture(run.tasks, config.prompts_per_task, config.seed)
  hosts.check_same(mixture.state(0))
  late = tasks.Late(epath.Path(workdir) / 'late', jax.process_index())
  verifier = build.verifier(config, run, late)
  # Nothing is written before all else is found right.
  hosts.by_first(lambda: checkpoint.claim(workdir, config.to_dict()))
  workdir = epath.Path(workdir)
  hosts.agree(lambda: checkpoint.check_shared(workdir))
  checkpoint.save_model(workdir, run.model, run.frozen, run.tokenizer)
  key = jax.random.key(config.seed)
  rollout_key, evaluation_key = jax.random.split(jax.random.fold_in(key, 1))
  state = first_state(run, optimizer, rollout_key)

  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    enter(verifier)
    saved = enter(checkpoint.Checkpoints(workdir, keep=config.checkpoint.keep))
    asked_to_end = enter(_on_sigterm())
    first = 0
    if saved.latest is not None:
      _, frozen = checkpoint.load_frozen(workdir, run.mesh)
      state, data = saved.restore(
          state._replace(frozen=run.model.compute.cast(frozen))
      )
      first = mixture.step(data)
      _log.info('resuming %s at step %d', workdir, first)
    out = _Writers([])
    if hosts.first():
      metrics.truncate(workdir, first if first else -1)
      tensorboard = metric_writers.create_default_writer(
          workdir / 'tensorboard'
      )
      out = _Writers([
          enter(contextlib.closing(metrics.HistoryWriter(workdir))),
          enter(contextlib.closing(tensorboard)),
          *writers,
      ])
    collect = build.collector(config, run, sample, verifier)
    collect_heldout = build.sampled(
        config, run, sample, verifier, config.evaluate.num_completions
    )
    progress = _Progress(
        first, config.num_steps, config.log_seconds,
        'reward' if config.objective == 'grpo' else 'loss',
    )
    recorder = _Recorder(
        out, progress, run.names, config.num_splits, optimizer.schedule
    )

    def evaluate_at(step: int) -> None:
      result = evaluate.evaluate(
          collect_heldout, state.policy, run.tasks, evaluation_key,
          batch_size=config.evaluate.batch_size,
          decode=functools.partial(text.decode, run.tokenizer),
      )
      if not hosts.first():
        return
      evaluate.write(workdir, step, result)
      means = {name: float(r.mean()) for name, r in result.rewards.items()}
      out.scalars(step, {f'heldout/{name}': m for name, m in means.items()})
      out.texts(step, {f'samples/{n}': s for n, s in result.samples.items()})
      _log.info('step %d, held-out reward: %s', step, ', '.join(
          f'{name} {mean:.3f}' for name, mean in means.items()))

    if first == 0:
      evaluate_at(0)
    trace = enter(tracing(workdir / 'tensorboard', **config.profile))
    for step in range(first, config.num_steps):
      trace(step, state)
      start = time.monotonic()
      every = config.instrument_every
      train_step = steps[every > 0 and step % every == 0]
      sampled = collect(
          state.policy, mixture.batch(step), jax.random.fold_in(state.key, step)
      )
      state, measured = train_step(state, sampled.batch)
      for _ in range(config.inner_epochs - 1):
        state, _ = train_step(state, sampled.batch)
      if hosts.first():
        recorder.push(step + 1, sampled, measured, start)

      done = step + 1
      last = done == config.num_steps
      if done % config.evaluate.every == 0 or last:
        recorder.flush()
        evaluate_at(done)
      # Asked only now: an evaluation takes its time.
      ending = hosts.ending(asked_to_end.is_set(), done)
      if done % config.checkpoint.every == 0 or last or ending:
        recorder.flush()
        out.flush()
        saved.save(done, state, mixture.state(done))
      if ending and not last:
        _log.info('asked to end: saved step %d; run again to go on', done)
        break
  hosts.wait()
  return history.load(workdir)

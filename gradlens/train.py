"""Train: builds everything from a config, then a loop that does I/O only."""

from collections.abc import Iterator, Mapping, Sequence
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

import gradlens as gl
from gradlens import evaluation, hosts, models, rollout, tasks, text
from gradlens.feed import ahead
from gradlens.report import history
from gradlens.setup import build, goal, mixing, sampling
from gradlens.step.optimizer import Optimizer, make_optimizer
from gradlens.step.train_step import TrainState
from gradlens.workdir import best, checkpoint, claim, journal
from gradlens.workdir.profile import tracing
from gradlens.workdir.record import Gains, Progress, Recorder, Writers

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


def _check_best(
    config: ml_collections.ConfigDict, run: build.Setup, optimizer: Optimizer,
    steps: Mapping[bool, Any], rewards: tasks.Rewards,
) -> None:
  """Refuses to choose checkpoints by what no step of the run records."""
  name = config.checkpoint.best
  if not name or best.by_evaluation(name):
    return
  first = TrainState(
      run.params, jax.eval_shape(optimizer.corrected.init, run.params),
      jax.random.key(0), run.frozen, run.reference,
  )
  always, sometimes = (
      best.recorded(
          jax.eval_shape(step, first, build.batch_shapes(config, rewards))[1],
          run.names, rewards.names, config.num_splits,
      )
      for step in (steps[config.instrument_every == 1], steps[True])
  )
  best.check(name, always, sometimes if config.instrument_every else ())


def _rewards(
    workdir: epath.Path, names: Sequence[str]
) -> dict[str, list[float]]:
  """Those of the steps that were recorded."""
  run = history.load(workdir)
  return {name: run.values(f'reward/{name}').tolist() for name in names}


def _writers(workdir: epath.Path) -> Iterator[Any]:
  """Of the folder's own metrics, to be closed at the end."""
  yield contextlib.closing(journal.HistoryWriter(workdir))
  yield contextlib.closing(
      metric_writers.create_default_writer(workdir / 'tensorboard')
  )


def first_state(
    run: build.Setup, optimizer: Optimizer, key: jax.Array
) -> TrainState:
  """With moments where their parameters are; all of it stays where it is.

  What may be anywhere would be elsewhere after a step, for the compiler: it
  would compile all that reads it again.
  """
  init = optimizer.corrected.init
  if run.mesh is not None:
    shapes = jax.eval_shape(init, run.params)
    specs = models.specs_like(shapes, run.params, models.specs(run.params))
    init = jax.jit(init, out_shardings=models.shardings(run.mesh, specs))
    everywhere = models.shardings(run.mesh, PartitionSpec())
    data = np.asarray(jax.random.key_data(key))
    key = jax.random.wrap_key_data(hosts.spread(data, everywhere))
  state = TrainState(
      run.params, init(run.params), key, run.frozen, run.reference
  )
  return jax.tree.map(lambda a: jax.device_put(a, a.sharding), state)


def _shapes(state: TrainState) -> TrainState:
  """Without arrays, but with where these lie."""
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
      state,
  )


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
  rewards = sampling.rewards(config, run)
  objective = goal.make_objective(
      config, run.stop_tokens, rewards.weights_KxM
  )
  sample = sampling.sampler(config, run, make_sampler)
  gl.check(
      optimizer.corrected, run.params, num_tasks=len(run.tasks),
      num_splits=config.num_splits, apply=config.correction.apply,
      **objective.extras(jnp.zeros((len(run.tasks), 1, 1))),
  )
  steps = build.steps(config, run.model, optimizer, objective, run.mesh)
  _check_best(config, run, optimizer, steps, rewards)
  mixture = mixing.mixture(config, run.tasks)
  data = mixture.init()
  hosts.check_same(data)
  late = tasks.Late(epath.Path(workdir) / 'late', jax.process_index())
  verifier = sampling.verifier(config, run, late)
  # Nothing is written before all else is found right.
  hosts.by_first(lambda: claim.claim(workdir, config.to_dict()))
  workdir = epath.Path(workdir)
  hosts.agree(lambda: claim.check_shared(workdir))
  checkpoint.save_model(workdir, run.model, run.frozen, run.tokenizer)
  key = jax.random.key(config.seed)
  rollout_key, _ = jax.random.split(jax.random.fold_in(key, 1))
  state = first_state(run, optimizer, rollout_key)
  # A step writes over its state, and nobody else is to keep a part of it.
  run = run._replace(params=None, frozen=None, reference=None)

  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    enter(verifier)
    saved = enter(checkpoint.Checkpoints(
        workdir, keep=config.checkpoint.keep, best=config.checkpoint.best
    ))
    asked_to_end = enter(_on_sigterm())
    first = 0
    if saved.latest is not None:
      like, state = _shapes(state), None  # there is no room for both
      _, frozen = checkpoint.load_frozen(
          workdir, run.mesh, run.model.compute.dtype
      )
      state, data = saved.restore(like._replace(frozen=frozen))
      data = mixture.restore(data)
      first = saved.latest
      _log.info('resuming %s at step %d', workdir, first)
    out, earlier = Writers([]), {}
    if hosts.first():
      journal.truncate(workdir, first if first else -1)
      earlier = _rewards(workdir, run.names)
      out = Writers([*map(enter, _writers(workdir)), *writers])
    answer = sampling.answers(config, run, sample, verifier)
    feed = mixing.feed(config, run, mixture, data, answer)
    lag = config.rollout.lag
    progress = Progress(
        first, config.num_steps, config.log_seconds,
        'reward' if config.objective == 'grpo' else 'loss',
    )
    recorder = Recorder(
        out, progress, Gains(run.names, config.gain_window, earlier), run.names,
        rewards.names, config.num_splits, optimizer.schedule,
        config.num_mini_batches, lag,
    )
    turn = ahead.Turns(
        feed, late, run.mesh, end=config.num_steps, lag=lag,
        overlap=config.rollout.overlap,
        refills=config.mixture.refill_rounds > 0, meanwhile=recorder.flush,
    )
    if lag and 0 < first < config.num_steps:
      turn.restore(saved.restore_ahead())
    collect_heldout = sampling.heldout(
        config, run, sample, verifier, make_sampler
    )
    evaluate = functools.partial(
        evaluation.evaluate, collect_heldout, tasks=run.tasks,
        key=evaluation.key(config.seed),
        batch_size=config.evaluate.batch_size,
        decode=functools.partial(text.decode, run.tokenizer),
        score=verifier.score,
    )
    evaluate_at = evaluation.Recorded(evaluate, workdir, out, late)
    heldout = {}  # scores of evaluations, by step

    if first == 0:
      heldout[0] = evaluate_at(0, state.policy)
    trace = enter(tracing(workdir / 'tensorboard', **config.profile))
    for step in range(first, config.num_steps):
      trace(step, state)
      start = time.monotonic()
      every = config.instrument_every
      train_step = steps[every > 0 and step % every == 0]
      sampled, state, measured = turn(state, step, train_step)
      if hosts.first():
        recorder.push(step + 1, sampled, measured, start)

      done = step + 1
      last = done == config.num_steps
      if done % config.evaluate.every == 0 or last:
        recorder.flush()
        heldout[done] = evaluate_at(done, state.policy)
      # Asked only now: an evaluation takes its time.
      ending = hosts.ending(asked_to_end.is_set(), done)
      if done % config.checkpoint.every == 0 or last or ending:
        recorder.flush()
        out.flush()
        scores = recorder.latest | heldout.get(done, {})
        if config.checkpoint.best:
          scores = hosts.from_first(scores)
        saved.save(
            done, state, feed.state(), scores, turn.sampled_ahead()
        )
      if ending and not last:
        _log.info('asked to end: saved step %d; run again to go on', done)
        break
  hosts.wait()
  return history.load(workdir)

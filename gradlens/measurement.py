"""Measurement: the tasks' gradients at fixed parameters, without training.

Every prompt belongs to one of several splits of its task; their gradients are
summed apart, and inner products of different splits carry no noise.
"""

from collections.abc import Iterator
import functools
import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import ml_collections
import numpy as np

import gradlens as gl
from gradlens import hosts, losses, models
from gradlens.experience import Batch
from gradlens.mixture import Mixture
from gradlens.setup import build, goal, sampling
from gradlens.step import placement, policies, task_gradients
from gradlens.step.rows import Row
from gradlens.step.train_step import TrainState
from gradlens.workdir import metrics

_log = logging.getLogger(__name__)


class Interval(NamedTuple):
  """An estimate with its 95% interval."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Rows(NamedTuple):
  """Gradients of all splits of all tasks.

  Attributes:
    names: of the tasks.
    rows_RxP: task-major gradients, each to be multiplied by its scale.
    scale_R: that makes them contributions to the loss.
    shares_K: each task's share of the weight of the loss.
    rewards_SxK: mean rewards of every split.
  """

  names: list[str]
  rows_RxP: Any
  scale_R: np.ndarray
  shares_K: np.ndarray
  rewards_SxK: np.ndarray


class Grams(NamedTuple):
  """The inner products of `Rows`.

  Attributes:
    names: of the tasks.
    blocks: per block of parameters, float64 `[R, R]` of task-major rows.
    shares_K: each task's share of the weight of the loss.
    rewards_SxK: mean rewards of every split.
  """

  names: list[str]
  blocks: dict[str, np.ndarray]
  shares_K: np.ndarray
  rewards_SxK: np.ndarray


class Measurement(NamedTuple):
  """What was measured of each task.

  Attributes:
    names: of the tasks.
    rewards_K: mean rewards, `[K]` each.
    norm_sq_K: unbiased squared norms of the contributions.
    intrinsic_K: of the tasks' own normalized losses.
    naive_K: the same without removing noise.
    ratio_K: of each unbiased squared norm to the quietest one's; intervals
      hold for all pairs at once, by Bonferroni's inequality.
    layer_shares: per block, the share of a task's unbiased squared norm; NaN
      for a task without any gradient.
  """

  names: list[str]
  rewards_K: Interval
  norm_sq_K: Interval
  intrinsic_K: Interval
  naive_K: np.ndarray
  ratio_K: Interval
  layer_shares: dict[str, np.ndarray]


def sample_rows(
    config: ml_collections.ConfigDict, *, num_prompts: int, num_splits: int
) -> Rows:
  """Samples completions and decomposes their gradient; changes nothing.

  Args:
    config: of a run; `init_from` says what is measured.
    num_prompts: of each task, all different.
    num_splits: parts for the estimates, 3 or more; memory holds
      K x num_splits gradients.

  Raises:
    ValueError: one sentence on what is wrong, before any work.
  """
  size = config.prompts_per_task
  if num_splits < 3 or num_prompts % (size * num_splits):
    raise ValueError(
        f'--prompts={num_prompts} must be a multiple of prompts_per_task x'
        f' splits = {size} x {num_splits}, with 3 splits or more.'
    )
  config = config.copy_and_resolve_references()
  config.correction.apply = 'stacked'  # rows are kept, and taken in pairs
  config.num_splits = 1  # a batch is of one split, and is never divided
  config.num_micro_batches = config.num_mini_batches = 1
  config.mixture.max_prompts = 0  # and of all tasks alike
  # What is measured is the policy's own gradient, of all that it samples; from
  # itself, as the reference, it does not diverge.
  for key, off in (('kl_coef', 0.0), ('mask_truncated', False)):
    if config.loss[key] != off:
      _log.info('measured without config.loss.%s', key)
      config.loss[key] = off
  run = build.setup(config)
  for task in run.tasks:
    if num_prompts > len(task.train):
      raise ValueError(
          f'--prompts={num_prompts} exceeds the {len(task.train)} training'
          f' prompts of task {task.name!r}: one taken twice is not independent.'
      )
  if run.model.lora is not None:
    _log.info('gradients are those of adapters of rank %d', run.model.lora.rank)
  rows_RxP, counts_KxS, rewards_SxK = _accumulate(
      config, run, num_prompts, num_splits
  )
  scale_R = 1 / losses.denominators(
      counts_KxS, normalize=config.loss.normalize
  ).reshape(-1)
  shares_K = losses.task_shares(counts_KxS, normalize=config.loss.normalize)
  return Rows(
      run.names, rows_RxP, np.asarray(scale_R, np.float64),
      np.asarray(shares_K), rewards_SxK,
  )


def inner_products(rows: Rows) -> Grams:
  """Block by block."""
  grams = hosts.whole(
      jax.jit(lambda rows: gl.gram_blocks(rows, models.blocks))(rows.rows_RxP)
  )
  scale_RxR = np.outer(rows.scale_R, rows.scale_R)
  blocks = {
      name: gram * scale_RxR for name, gram in metrics.layers(grams).items()
  }
  return Grams(rows.names, blocks, rows.shares_K, rows.rewards_SxK)


def measure(
    config: ml_collections.ConfigDict, *, num_prompts: int, num_splits: int
) -> Measurement:
  """What `sample_rows` finds, as estimates."""
  return estimate(inner_products(
      sample_rows(config, num_prompts=num_prompts, num_splits=num_splits)
  ))


def _accumulate(
    config: ml_collections.ConfigDict, run: build.Setup, num_prompts: int,
    num_splits: int,
) -> tuple[Any, jax.Array, np.ndarray]:
  """Undivided gradients `[R, *param]`, counts `[K, S]`, rewards `[S, K]`."""
  k, aggregate = len(run.tasks), config.loss.aggregate
  weights_KxM = sampling.rewards(config, run).weights_KxM
  objective = goal.make_objective(config, run.stop_tokens, weights_KxM)
  losses_fn = task_gradients.make_losses(
      run.model, objective, temperature=config.rollout.temperature,
      aggregate=aggregate, mesh=run.mesh, num_stacked=k,
  )
  prepare = policies.make_prepare(
      run.model, objective, num_splits=1, mesh=run.mesh,
      temperature=config.rollout.temperature, num_micro_batches=1,
  )
  row_gradients = task_gradients.row_gradients(losses_fn, k, run.mesh)
  specs = placement.stacked_specs(run.params, 2)

  @functools.partial(jax.jit, donate_argnums=0)
  def add(rows, frozen, params, batch, split):
    grads, counts = rows
    state = TrainState(params, None, None, frozen, run.reference)
    row = Row(*prepare(state, batch), jnp.ones(k))
    row = placement.constrain(row, run.mesh, placement.row_specs(row, None))
    _, grads_KxP, _ = row_gradients(frozen, params, row)
    count_K = jax.vmap(
        lambda mask: losses.row_count(mask, aggregate=aggregate)
    )(row.batch.mask_KxBxGxC)
    grads = jax.tree.map(lambda a, g: a.at[:, split].add(g), grads, grads_KxP)
    return placement.constrain(
        (grads, counts.at[:, split].add(count_K)), run.mesh,
        (specs, PartitionSpec()),
    )

  shapes = jax.tree.map(lambda a: (k, num_splits, *a.shape), run.params)
  # What may be anywhere would not be after the first call, and compiled again.
  everywhere = models.shardings(run.mesh, PartitionSpec())
  rows = jax.tree.map(
      lambda own, shape: jnp.zeros(shape, device=own),
      models.shardings(run.mesh, specs), shapes,
  ), jnp.zeros((k, num_splits), device=everywhere)
  rewards = np.zeros((num_splits, k))
  batches = num_prompts // config.prompts_per_task
  for i, batch in _batches(config, run, batches):
    rows = add(rows, run.frozen, run.params, batch, i % num_splits)
    rewards[i % num_splits] += np.mean(batch.rewards_KxBxG, axis=(1, 2))
  merge = jax.jit(
      lambda grads: jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), grads),
      donate_argnums=0,
  )
  grads, counts_KxS = rows
  del rows
  return merge(grads), hosts.whole(counts_KxS), rewards * num_splits / batches


def _batches(
    config: ml_collections.ConfigDict, run: build.Setup, count: int
) -> Iterator[tuple[int, Batch]]:
  mixture = Mixture(run.tasks, config.prompts_per_task, config.seed)
  state = mixture.init()
  hosts.check_same(state)
  key = jax.random.fold_in(jax.random.key(config.seed), 3)
  sample = sampling.sampler(config, run)
  with sampling.verifier(config, run) as verifier:
    collect = sampling.collector(config, run, sample, verifier)
    for i in range(count):
      step_key = jax.random.fold_in(key, i)
      policy = models.join(run.params, run.frozen)
      draw, state = mixture.draw(state)
      yield i, collect(policy, draw.records, step_key).batch
      if (i + 1) % max(1, count // 10) == 0:
        _log.info('%d of %d prompts of each task', *(
            n * config.prompts_per_task for n in (i + 1, count)))


def unbiased(
    gram_RxR: np.ndarray, splits: np.ndarray, total: int
) -> np.ndarray:
  """Squared norms of the whole, from some of its splits: `[K]`.

  Args:
    gram_RxR: products of task-major rows, `total` of each task.
    splits: which of these to take, two or more.
    total: S, all there are.
  """
  num_tasks = gram_RxR.shape[0] // total
  grid = gram_RxR.reshape(num_tasks, total, num_tasks, total)
  own_KxSxS = np.einsum('ksku->ksu', grid)[:, splits][:, :, splits]
  pairs_K = own_KxSxS.sum((1, 2)) - np.einsum('kss->k', own_KxSxS)
  return pairs_K * total**2 / (len(splits) * (len(splits) - 1))


def estimate(grams: Grams) -> Measurement:
  """Norms and their ratios, with 95% intervals by the jackknife over splits."""
  names, blocks, shares_K, rewards_SxK = grams
  num_splits = len(rewards_SxK)
  gram_RxR = sum(blocks.values())
  splits = np.arange(num_splits)

  def norm_sq_K(s):
    return unbiased(gram_RxR, s, num_splits)

  quietest = int(np.argmin(norm_sq_K(splits)))

  def log_ratio_K(s):
    return np.log(norm_sq_K(s)) - np.log(norm_sq_K(s)[quietest])

  whole = Interval(*gl.jackknife(norm_sq_K, splits))
  # Unbiased squared norms may be negative, and without any gradient are 0.
  with np.errstate(invalid='ignore', divide='ignore'):
    # The pair is chosen by looking: intervals hold for all pairs at once.
    pairs = max(1, math.comb(len(names), 2))
    ratio_K = Interval(*map(
        np.exp, gl.jackknife(log_ratio_K, splits, level=1 - 0.05 / pairs)
    ))
    layer_shares = {
        name: unbiased(gram, splits, num_splits) / whole.value
        for name, gram in blocks.items()
    }
  return Measurement(
      names,
      Interval(*gl.jackknife(lambda r: r.mean(0), rewards_SxK)),
      whole,
      Interval(*(bound / shares_K**2 for bound in whole)),
      np.diag(gl.task_gram(gram_RxR, num_splits)),
      ratio_K,
      layer_shares,
  )

"""The optimizer: correction, clipping, descent, as one optax chain."""

from typing import Any, NamedTuple

import jax
import optax

import gradlens as gl
from gradlens import models

CORRECTIONS = dict(
    total=gl.total,
    mean=gl.mean,
    constant=gl.constant,
    random_weights=gl.random_weights,
    equalize_norms=gl.equalize_norms,
    imtl_g=gl.imtl_g,
    mgda=gl.mgda,
    cagrad=gl.cagrad,
    pcgrad=gl.pcgrad,
    upgrad=gl.upgrad,
    dual_proj=gl.dual_proj,
    aligned_mtl=gl.aligned_mtl,
    nash_mtl=gl.nash_mtl,
    fairgrad=gl.fairgrad,
    conflict_free=gl.conflict_free,
    gradvac=gl.gradvac,
    gradnorm=gl.gradnorm,
    modo=gl.modo,
    sdmgrad=gl.sdmgrad,
    mt_grpo=gl.mt_grpo,
    famo=gl.famo,
    uncertainty_weighting=gl.uncertainty_weighting,
    dwa=gl.dwa,
    stch=gl.stch,
    krum=gl.krum,
    pcd=gl.pcd,
)
BLOCKS = {'global': None, 'layer': models.blocks}
SCHEDULES = dict(
    constant=lambda peak, warmup, steps: optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup),
         optax.constant_schedule(peak)],
        [warmup],
    ),
    cosine=lambda peak, warmup, steps: optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, max(steps, warmup + 1)
    ),
)
# Of a schedule and the config's `optimizer`.
DESCENTS = dict(
    adamw=lambda rate, o: optax.adamw(
        rate, b1=o.b1, b2=o.b2, weight_decay=o.weight_decay
    ),
    lion=lambda rate, o: optax.lion(
        rate, b1=o.b1, b2=o.b2, weight_decay=o.weight_decay
    ),
    sgd=lambda rate, o: optax.chain(
        optax.add_decayed_weights(o.weight_decay), optax.sgd(rate)
    ),
)


class Optimizer(NamedTuple):
  """One chain in two forms that share a state.

  Attributes:
    correction: the first of the chain.
    corrected: takes gradients as `correction.apply` says; its state is
      `(correction, *rest)`.
    plain: takes the joint gradient; its state is `rest`.
    schedule: learning rate of each step.
  """

  correction: gl.Correction
  corrected: optax.GradientTransformationExtraArgs
  plain: optax.GradientTransformation
  schedule: optax.Schedule


def choose(key: str, name: str, choices: dict[str, Any]) -> Any:
  """Looks up a config value, and says what there is to choose from.

  Raises:
    ValueError: naming key, value and choices.
  """
  if name not in choices:
    raise ValueError(
        f'config.{key}={name!r} is not known; choose one of'
        f' {", ".join(choices)}.'
    )
  return choices[name]


def make_weighting(
    name: str, kwargs: dict[str, Any], num_tasks: int
) -> gl.Weighting:
  """The weighting that a config names.

  Raises:
    ValueError: an unknown name or argument, or one that does not fit the tasks.
  """
  factory = choose('correction.name', name, CORRECTIONS)
  try:
    weighting = factory(**kwargs)
    jax.eval_shape(lambda: weighting.init(num_tasks))
    return weighting
  except (TypeError, ValueError) as error:
    raise ValueError(
        f'config.correction.kwargs={kwargs} do not fit {name}: {error}.'
    ) from error


def make_optimizer(
    config: Any, num_tasks: int, weighting: gl.Weighting | None
) -> Optimizer:
  """Builds the chain from a config; `weighting` stands in for the named one."""
  c, o = config.correction, config.optimizer
  if weighting is None:
    weighting = make_weighting(c.name, c.kwargs.to_dict(), num_tasks)
  make_schedule = choose('optimizer.schedule', o.schedule, SCHEDULES)
  by_step = make_schedule(o.learning_rate, o.warmup_steps, config.num_steps)

  def schedule(update):
    return by_step(update // (config.inner_epochs * config.num_mini_batches))

  try:
    correct = gl.correct(
        weighting,
        num_tasks=num_tasks,
        num_splits=config.num_splits,
        blocks=choose('correction.blocks', c.blocks, BLOCKS),
        apply=c.apply,
        kind=c.kind,
        match_norm=c.match_norm,
    )
  except ValueError as error:
    raise ValueError(
        f'config.correction.apply={c.apply!r}, blocks={c.blocks!r}, '
        f'kind={c.kind!r}: {error}.'
    ) from error
  clip = optax.clip_by_global_norm(o.clip_norm)
  rest = (
      clip if o.clip_norm else optax.identity(),
      choose('optimizer.name', o.name, DESCENTS)(schedule, o),
  )
  return Optimizer(
      correct, optax.chain(correct, *rest), optax.chain(*rest), by_step
  )

"""Checkpoints: a run's saved states, and the models that they belong to."""

from collections.abc import Mapping
import functools
import json
import os
import re
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from gradlens import hosts, models
from gradlens.step.train_step import TrainState
from gradlens.workdir import best as best_of
from gradlens.workdir.claim import read_config, write_json

MODEL, STATES = 'model', 'checkpoints'
LORA = 'lora.json'  # in MODEL


def absolute(path: epath.PathLike) -> epath.Path:
  """Orbax takes no relative path; a bucket's has no other form."""
  path = epath.Path(path)
  return path if '://' in os.fspath(path) else path.resolve()


class Checkpoints:
  """Saved states of a run; saving goes on beside the next steps.

  Args:
    workdir: of the run.
    keep: how many of the newest are kept.
    best: the metric of `save` by which the best one is kept too, with a '-'
      before it that of which it is lowest; '' keeps none.
  """

  def __init__(
      self, workdir: epath.PathLike, *, keep: int = 2, best: str = ''
  ):
    self._folder = absolute(workdir) / STATES
    self._best = best
    quality = functools.partial(best_of.quality, best)
    policies = [managers.LatestN(n=keep)]
    if best:
      policies.append(managers.BestN(
          get_metric_fn=quality, n=1,
          keep_checkpoints_without_metrics=False,
      ))
    self._manager = ocp.CheckpointManager(
        self._folder, options=ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            best_fn=quality if best else None,
        )
    )

  @property
  def latest(self) -> int | None:
    """Step of the newest state, or None."""
    return self._manager.latest_step()

  def find(self, which: str) -> int:
    """Step of a saved state: '' is the newest, else 'best' or a number.

    Raises:
      ValueError: it is not there.
    """
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise ValueError(f'{self._folder} holds no checkpoint yet.')
    if which == 'best' and not self._best:
      raise ValueError(
          f'{self._folder} keeps no best checkpoint; its run has to set'
          " checkpoint.best='heldout', or another metric."
      )
    step = {'': steps[-1], 'best': self._manager.best_step()}.get(which)
    if step is None and which.isdecimal():
      step = int(which)
    if step not in steps:
      raise ValueError(
          f'{self._folder} has no checkpoint {which!r}; there are'
          f' {", ".join(map(str, steps))}.'
      )
    return step

  def save(
      self, step: int, state: TrainState, data: dict[str, Any],
      scores: Mapping[str, float] | None = None,
      ahead: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts saving, unless that step is saved already.

    Args:
      step: how many steps are done.
      state: after them; parameters are kept apart, to be read alone. What is
        frozen is not kept with every state (see `save_model`).
      data: the position in the data, JSON-able.
      scores: metrics to choose the best by, if there are any of this step.
      ahead: numpy arrays of the batch that was sampled ahead, if there is one.
    """
    if step == self.latest:
      return
    if self._best and scores:
      scores = best_of.scores(self._best, scores)
    scores = scores if self._best and scores else None
    self._manager.save(step, metrics=scores, args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(state._replace(params=None, frozen=None)),
        data=ocp.args.JsonSave(data),
        **({'ahead': ocp.args.StandardSave(dict(ahead))} if ahead else {}),
    ))

  def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The newest state and position; `like` gives shapes and shardings.

    Raises:
      ValueError: it cannot be read; names its folder.
    """
    restored = self._read(
        self.find(''),
        params=ocp.args.StandardRestore(like.params),
        rest=ocp.args.StandardRestore(
            like._replace(params=None, frozen=None)
        ),
        data=ocp.args.JsonRestore(),
    )
    state = restored['rest']._replace(
        params=restored['params'], frozen=like.frozen
    )
    return state, restored['data']

  def restore_params(self, like: Any, which: str = '') -> Any:
    """Parameters only, for another run, a measurement, an export; see `find`.

    Raises:
      ValueError: there is none, or it cannot be read.
    """
    step = self.find(which)
    return self._read(step, params=ocp.args.StandardRestore(like))['params']

  def restore_data(self, which: str = '') -> dict[str, Any]:
    """The position in the data only; see `find`.

    Raises:
      ValueError: there is none, or it cannot be read.
    """
    return self._read(self.find(which), data=ocp.args.JsonRestore())['data']

  def restore_ahead(self) -> dict[str, Any]:
    """What was saved as `ahead` with the newest state.

    Raises:
      ValueError: nothing was, or it cannot be read.
    """
    step = self.find('')
    return self._read(step, ahead=ocp.args.StandardRestore())['ahead']

  def _read(self, step: int, **items: Any) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:
      cause = f'{type(error).__name__}: {error}'.partition('\n')[0][:80]
      raise ValueError(
          f'checkpoint {self._folder / str(step)} cannot be read; it is'
          ' damaged or of another model. Remove that folder to go on from the'
          f' one before it. ({cause})'
      ) from error

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused: object) -> None:
    self._manager.close()  # waits for what is being saved


def save_model(
    workdir: epath.Path, model: models.Model, frozen: Any, tokenizer: Any
) -> None:
  """Keeps what a run's states belong to: its model, and what is frozen."""
  folder = workdir / MODEL
  if model.lora is None:
    hosts.by_first(lambda: models.save_model(model, folder, tokenizer))
  elif not (folder / LORA).exists():
    models.save(models.build(model.config), frozen, folder, tokenizer)
    hosts.by_first(lambda: write_json(folder / LORA, model.lora._asdict()))


def load_frozen(
    workdir: epath.PathLike, mesh: Mesh | None = None, dtype: Any = jnp.float32
) -> tuple[models.Model, Any]:
  """The model of a run's states, and what is frozen beside them."""
  folder = epath.Path(workdir) / MODEL
  if not (folder / LORA).exists():
    return models.load_model(folder), {}
  base, frozen = _load(folder, mesh, dtype)
  lora = json.loads((folder / LORA).read_text())
  lora = models.Lora(**lora | dict(targets=tuple(lora['targets'])))
  return models.build(base.config, lora), frozen


def _shapes(model: models.Model, mesh: Mesh | None) -> Any:
  """Of all parameters, with the shards that they lie in."""
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  return jax.tree.map(
      lambda a, own: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=own),
      shapes, models.shardings(mesh, models.specs(shapes)),
  )


def split_step(path: epath.PathLike) -> tuple[epath.Path, str]:
  """A folder, and which of its run's checkpoints: `RUN@best`, `RUN@40`, `RUN`.

  >>> folder, which = split_step('runs/a@best')
  >>> folder.name, which
  ('a', 'best')
  """
  found = re.fullmatch(r'(.+)@(best|[0-9]+)', os.fspath(path), re.DOTALL)
  if path == 'warm':
    return models.WARM, ''
  return (epath.Path(found[1]), found[2]) if found else (epath.Path(path), '')


def open_states(workdir: epath.PathLike, which: str) -> Checkpoints:
  """To read a state of a run; see `Checkpoints.find`."""
  if which != 'best':
    return Checkpoints(workdir)
  return Checkpoints(workdir, best=read_config(workdir)['checkpoint']['best'])


def load_config(path: epath.PathLike) -> models.DecoderConfig:
  """Sizes and options of the model that `load_model` reads."""
  folder, _ = split_step(path)
  own = folder / MODEL
  return models.load_model(own if own.exists() else folder).config


def _load(
    folder: epath.PathLike, mesh: Mesh | None, dtype: Any
) -> tuple[models.Model, Any]:
  shapes = _shapes(models.load_model(folder), mesh)
  return models.load(
      folder, dtype, jax.tree.map(lambda a: a.sharding, shapes)
  )


def load_model(
    path: epath.PathLike, mesh: Mesh | None = None, dtype: Any = jnp.float32
) -> tuple[models.Model, Any, Any]:
  """A run's or a Hugging Face directory's model, parameters and tokenizer.

  The adapters of a run are added to the parameters beside them.

  Args:
    path: 'warm' (the small model shipped with gradlens), a run's workdir (its
      newest checkpoint; see `split_step` for others), or a Hugging Face model
      directory.
    mesh: that the parameters are to lie on; None is the first device.
    dtype: of a Hugging Face model's parameters; a run's are float32.

  Raises:
    ValueError: nothing of the kind is there, or it cannot be read.
    FileNotFoundError: likewise.
  """
  folder, which = split_step(path)
  if not (folder / MODEL).exists():
    model, params = _load(folder, mesh, dtype)
    return model, params, models.load_tokenizer(folder)
  model, frozen = load_frozen(folder, mesh)
  like, _ = models.split(_shapes(model, mesh))
  with open_states(folder, which) as states:
    params = models.join(states.restore_params(like, which), frozen)
  return (*models.merge(model, params), models.load_tokenizer(folder / MODEL))

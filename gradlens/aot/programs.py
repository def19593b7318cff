"""Programs: a config's step and sampler, compiled from shapes alone."""

from collections.abc import Sequence
import logging
import math
import re
from typing import Any, NamedTuple

from etils import epath
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec, SingleDeviceSharding
import numpy as np
from transformers import ByT5Tokenizer

from gradlens import advantages, models, rollout, tasks
from gradlens.aot.compiler import Compiled, Refused, ask
from gradlens.setup import build, goal, meshes
from gradlens.setup.values import check_values
from gradlens.step import placement
from gradlens.step.optimizer import Optimizer, make_optimizer
from gradlens.step.train_step import TrainState
from gradlens.workdir import checkpoint

_log = logging.getLogger(__name__)


class Slice(NamedTuple):
  """The devices that a config runs on.

  Attributes:
    devices: of a topology.
    mesh: of these; None is the first one.
  """

  devices: Sequence[Any]
  mesh: Mesh | None

  @property
  def used(self) -> Sequence[Any]:
    """The devices that take part."""
    return self.devices[:1] if self.mesh is None else self.devices

  @property
  def groups(self) -> int:
    """Devices that have prompts of their own."""
    if self.mesh is None:
      return 1
    return math.prod(self.mesh.shape[axis] for axis in models.DATA)

  def place(self, shapes: Any, specs: Any) -> Any:
    """Shapes with their shardings."""
    if self.mesh is None:
      first = SingleDeviceSharding(self.devices[0])
      shardings = jax.tree.map(lambda spec: first, specs)
    else:
      shardings = models.shardings(self.mesh, specs)
    return jax.tree.map(
        lambda a, own: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=own),
        shapes, shardings,
    )


class Planned(NamedTuple):
  """What a config builds, without an array.

  Attributes:
    model: computed as it is on the slice.
    optimizer: of the config.
    state: shapes of the first state, in their shards.
    on: the devices.
    sampling: the same, as the sampler divides them.
  """

  model: models.Model
  optimizer: Optimizer
  state: TrainState
  on: Slice
  sampling: Slice


def find_devices(topology: str) -> Sequence[Any]:
  """The devices of a topology, as 'v5p:4x4x4'; libtpu has to be installed.

  Raises:
    ValueError: there is no such slice.
  """
  try:
    return topologies.get_topology_desc(
        platform='tpu', topology_name=topology
    ).devices
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    line = str(error).strip().splitlines()[0]
    raise ValueError(f'--topology={topology}: {line}') from error


def _model(config: Any) -> models.Model:
  """From a directory that `init_from` names, else of `config.model`."""
  named = config.init_from
  if named == 'warm' or (named and epath.Path(named).exists()):
    model = models.build(checkpoint.load_config(named))
  elif named and not re.fullmatch(r'[\w-]+/[\w.-]+', named):
    raise ValueError(
        f'config.init_from={named!r} is neither a directory nor OWNER/NAME on'
        ' the hub.'
    )
  else:
    model = build.random_model(config, ByT5Tokenizer())
    if named:
      _log.info('sizes of %s are taken from config.model', named)
  if not config.lora.rank:
    return model
  return models.build(model.config, build.lora_of(config))


def plan(config: Any, devices: Sequence[Any]) -> Planned:
  """Everything that the programs are made of.

  Raises:
    ValueError: one sentence on what does not fit together.
  """
  check_values(config)
  mesh = meshes.make_mesh(config, devices)
  on = Slice(devices, mesh)
  model = _model(config)
  meshes.check_mesh(config, mesh, model.config)
  sampling = Slice(devices, meshes.sampling_mesh(config, mesh, model.config))
  if config.rollout.num_slots % sampling.groups:
    raise ValueError(
        f'rollout.num_slots={config.rollout.num_slots} cannot be divided by the'
        f" {sampling.groups} devices of the data axes, 'task' and 'fsdp'."
    )
  model = model._replace(
      compute=meshes.compute(config, mesh, devices[0], model.config.head_dim)
  )
  optimizer = make_optimizer(config, len(config.tasks), None)

  def first():
    params, frozen = models.init(model, jax.random.key(0)), {}
    if config.lora.rank:
      params, frozen = models.split(params)
      frozen = model.compute.cast(frozen)
    return TrainState(
        params, optimizer.corrected.init(params), jax.random.key(0), frozen,
        build.reference(config, model, params),
    )

  state = jax.eval_shape(first)
  size = sum(leaf.size for leaf in jax.tree.leaves(state.policy))
  _log.info('a model of %.3g billion parameters', size / 1e9)
  state = on.place(state, placement.state_specs(state))
  return Planned(model, optimizer, state, on, sampling)


def _everywhere(on: Slice, shapes: Any) -> Any:
  return on.place(shapes, jax.tree.map(lambda a: PartitionSpec(), shapes))


def _rewards(config: Any) -> tasks.Rewards:
  """Without the tasks; how many rewards one has changes little."""
  several = config.advantage.scale == advantages.DECOUPLED
  names = [['first', 'second'] if several else ['reward']] * len(config.tasks)
  return tasks.Rewards(names, np.ones((len(names), len(names[0])), np.float32))


def _stop_tokens(model: models.Model) -> tuple[int, ...]:
  """Without a tokenizer; how many there are changes little."""
  return model.config.eos_token_id or (0,)


def requests(config: Any, groups: int) -> tuple[int, int]:
  """Prompts that are sampled at once, and completions of each.

  Of a step or of an evaluation, whichever has more to keep.
  """
  r, slots, k = config.rollout, config.rollout.num_slots, len(config.tasks)
  asked = [(k * config.evaluate.batch_size, config.evaluate.num_completions)]
  if config.objective == 'grpo':
    asked.append((k * config.prompts_per_task, config.num_completions))

  def tokens(of):
    n, g = of
    decoded = min(n, slots or n)
    return n * r.max_prompt_tokens + decoded * g * r.max_new_tokens

  n, g = max(asked, key=tokens)
  if slots:
    rounds = -(-n // slots)
    return slots << (rounds - 1).bit_length(), g
  return n + -n % groups, g


def compile_step(
    config: Any, planned: Planned, instrument: bool
) -> Compiled | Refused:
  """The training step, with or without the decomposition."""
  step = build.steps(
      config, planned.model, planned.optimizer,
      goal.make_objective(
          config, _stop_tokens(planned.model), _rewards(config).weights_KxM
      ), planned.on.mesh,
  )[instrument]
  batch = _everywhere(planned.on, build.batch_shapes(config, _rewards(config)))
  how = 'with' if instrument else 'without'
  return ask(
      step.trace(planned.state, batch), f'the step {how} the decomposition'
  )


def compile_sampler(config: Any, planned: Planned) -> Compiled | Refused:
  """The sampler of all prompts of a step."""
  on, r = planned.sampling, config.rollout
  n, g = requests(config, on.groups)
  shape = jax.ShapeDtypeStruct
  keys = jax.eval_shape(
      lambda: rollout.request_keys(jax.random.key(0), (n, g))
  )
  asked = on.place((
      shape((n, r.max_prompt_tokens), jnp.int32),
      shape((n, r.max_prompt_tokens), bool), keys,
  ), (PartitionSpec(models.DATA),) * 3)
  traced = rollout.generate_on(on.mesh).trace(
      planned.model, planned.state.policy, *asked,
      max_new_tokens=r.max_new_tokens, temperature=r.temperature,
      stop_tokens=_stop_tokens(planned.model),
      num_slots=r.num_slots // on.groups if r.num_slots else None,
      top_k=None, top_p=1.0,
  )
  return ask(traced, 'the sampler')

"""Meshes: the devices of a config, and what computes there."""

from collections.abc import Sequence
import logging
from typing import Any

import jax
from jax.sharding import Mesh

from gradlens import models
from gradlens.setup.values import about, max_prompts

_log = logging.getLogger(__name__)


def make_mesh(
    config: Any, devices: Sequence[jax.Device] | None = None
) -> Mesh | None:
  """The devices of a config, of all there are; None is the first one.

  Raises:
    ValueError: it asks for more or fewer than there are.
  """
  devices = jax.devices() if devices is None else devices
  sizes = config.mesh.to_dict()
  if set(sizes.values()) == {1}:
    if jax.process_count() > 1:
      raise ValueError(
          f'config.mesh: {jax.process_count()} hosts have {len(devices)}'
          ' devices, and it takes one; set config.mesh.fsdp=-1.'
      )
    if len(devices) > 1:
      _log.warning(
          '%d devices, and config.mesh takes one of them', len(devices)
      )
    return None
  with about('config.mesh'):
    return models.make_mesh(
        **sizes, num_rows=len(config.tasks) * config.num_splits,
        devices=devices,
    )


def check_mesh(
    config: Any, mesh: Mesh | None, of_model: models.DecoderConfig
) -> None:
  """Before any parameter is made or read.

  Raises:
    ValueError: the mesh does not divide the model, or the prompts.
  """
  if mesh is None:
    return
  parts = (
      config.num_splits * config.num_mini_batches * config.num_micro_batches
  )
  with about('config.mesh'):
    models.check_mesh(mesh, of_model, max_prompts(config) // parts)


def sampling_mesh(
    config: Any, mesh: Mesh | None, of_model: models.DecoderConfig
) -> Mesh | None:
  """The mesh of training, or one with more devices to a model.

  Raises:
    ValueError: the devices, or the model, are not to be divided so.
  """
  tensor = config.rollout.tensor
  if not tensor:
    return mesh
  with about(f'config.rollout.tensor={tensor}'):
    if mesh is None:
      raise ValueError('there is no mesh; set config.mesh too, or 0 here.')
    mesh = models.sampling_mesh(mesh, tensor)
  check_mesh(config, mesh, of_model)
  return mesh


def compute(
    config: Any, mesh: Mesh | None, device: jax.Device, head_dim: int
) -> models.Compute:
  """How a model with heads of a width is computed on devices as this one.

  Raises:
    ValueError: an attention that cannot be there.
  """
  c, attention = config.compute, config.compute.attention
  if mesh is not None and config.correction.apply == 'stacked':
    # Divided by the compiler, which knows no kernels.
    if attention not in ('auto', 'plain'):
      raise ValueError(
          f'config.compute.attention={attention!r} cannot be divided over a'
          " mesh with correction.apply='stacked'; use attention='auto', or"
          ' another apply.'
      )
    attention = 'plain'
  with about('config.compute.attention'):
    attention = models.choose_attention(attention, device, c.dtype, head_dim)
  return models.Compute(c.dtype, attention, c.remat)

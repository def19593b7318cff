"""Weights: safetensors in the Hugging Face layout, to and from shards."""

import functools
import json
import pathlib
import re
import shutil
from typing import Any, NamedTuple

from etils import epath
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from gradlens import hosts
from gradlens.models import adapters, forward
from gradlens.models.config import DecoderConfig
from gradlens.models.families import IMAGES, RENAMED, TOP
from gradlens.models.huggingface import (
    load_model,
    local,
    save_model,
    written,
)

_WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_DTYPES = ('F32', 'BF16', 'F16')


class Stored(NamedTuple):
  """Where a tensor lies."""

  file: pathlib.Path
  name: str


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(entry.key for entry in path)


def _published(config: DecoderConfig, keys: tuple[str, ...]) -> list[str]:
  """Names of the stored tensors of a parameter: one, or one a layer."""
  if keys[0] != 'layers':
    return [TOP['.'.join(keys)]]
  name = config.family.layer['.'.join(keys[1:])]
  return [f'model.layers.{i}.{name}' for i in range(config.num_hidden_layers)]


def _transposed(keys: tuple[str, ...]) -> bool:
  return keys[-1] == 'kernel'


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Which file holds each tensor."""
  if (folder / _INDEX).exists():
    index = json.loads((folder / _INDEX).read_text())['weight_map']
    absent = sorted({f for f in index.values() if not (folder / f).exists()})
    if absent:
      raise FileNotFoundError(
          f'{folder} lacks {", ".join(absent)}, which {_INDEX} names.'
      )
    return {name: folder / file for name, file in index.items()}
  if not (folder / _WEIGHTS).exists():
    raise FileNotFoundError(
        f'{folder} holds neither {_WEIGHTS} nor {_INDEX}: not a Hugging Face'
        ' model directory with safetensors weights.'
    )
  with _open(folder / _WEIGHTS) as tensors:
    return {name: folder / _WEIGHTS for name in tensors.keys()}


def stored_tensors(folder: pathlib.Path) -> dict[str, Stored]:
  """Where the tensors of the language model lie, by their usual names."""
  files = _files(folder)
  if not any(name.startswith(tuple(RENAMED)) for name in files):
    return {name: Stored(file, name) for name, file in files.items()}
  found = {}
  for name, file in files.items():
    usual = name
    for prefix, own in RENAMED.items():
      if name.startswith(prefix):
        usual = own + name.removeprefix(prefix)
    if not name.startswith(IMAGES):
      found[usual] = Stored(file, name)
  return found


def _open(path: pathlib.Path):
  try:
    return safe_open(path, framework='numpy')
  except Exception as error:
    raise ValueError(
        f'{path} cannot be read as safetensors ({error}); copy it again.'
    ) from error


def _check(
    folder: pathlib.Path, config: DecoderConfig, wanted: Any,
    tensors: dict[str, Stored],
) -> None:
  """Refuses weights that are not the model's; reads the files' headers only."""
  opened = {file: _open(file) for file in {s.file for s in tensors.values()}}
  held = {file: set(header.keys()) for file, header in opened.items()}
  problems, used = [], set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
    keys = _keys(path)
    shape = leaf.shape[1:] if keys[0] == 'layers' else leaf.shape
    shape = shape[::-1] if _transposed(keys) else shape
    for name in _published(config, keys):
      used.add(name)
      if name not in tensors:
        problems.append(f'{name} is missing')
        continue
      file, stored = tensors[name]
      if stored not in held[file]:
        problems.append(f'{name} is not in {file.name}')
        continue
      header = opened[file].get_slice(stored)
      if tuple(header.get_shape()) != shape:
        problems.append(
            f'{name} has shape {tuple(header.get_shape())}, expected {shape}'
        )
      if header.get_dtype() not in _DTYPES:
        problems.append(
            f'{name} is stored as {header.get_dtype()}; gradlens reads'
            f' {", ".join(_DTYPES)}'
        )
  extra = set(tensors) - used
  if config.tie_word_embeddings:
    extra.discard('lm_head.weight')  # a stored copy of the embedding
  problems += [f'{name} is not expected' for name in sorted(extra)]
  if problems:
    raise ValueError(
        f'{folder} does not hold the model of its config.json: '
        + '; '.join(problems) + '.'
    )


def _read(
    stored: Stored, transposed: bool, dtype: Any, index: tuple[slice, ...]
) -> np.ndarray:
  """Part of a tensor, and no more of the file than that."""
  with _open(stored.file) as tensors:
    tensor = tensors.get_slice(stored.name)
    part = tensor[index[::-1]].T if transposed else tensor[index]
  return part.astype(dtype, copy=False)


def _of_layer(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """Of one layer of a stacked leaf; layers themselves are not sharded."""
  if isinstance(sharding, jax.sharding.NamedSharding):
    spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
    return jax.sharding.NamedSharding(sharding.mesh, spec)
  return sharding


def load(
    path: Any, dtype: Any = jnp.float32, shardings: Any = None
) -> tuple[forward.Model, Any]:
  """Reads a Hugging Face model directory, tensor by tensor into its shards.

  Beside the parameters themselves, about one tensor is in memory at a time.

  Args:
    path: a directory, here or in a bucket (gs://...), with `config.json` and
      safetensors weights (one file, or several and their index), or
      `owner/name` on the hub.
    dtype: of the returned parameters.
    shardings: of the parameters: one for all, or a tree like them; the axis of
      layers cannot be sharded. By default they are on the first device.

  Returns:
    `model` (no arrays, hashable) and `params`, a nested dict of arrays in
    which the layers are stacked.

  Raises:
    FileNotFoundError: no configuration or weights there.
    ValueError: an unsupported family or option, an unreadable file, or
      tensors that are missing, unexpected or of another shape, by name;
      before any is read.
  """
  folder = local(path)
  model = load_model(folder)
  tensors = stored_tensors(folder)
  wanted = jax.eval_shape(lambda: forward.init(model, jax.random.key(0)))
  return model, read(folder, model, wanted, tensors, dtype, shardings)


def read(
    folder: pathlib.Path, model: forward.Model, wanted: Any,
    tensors: dict[str, Stored], dtype: Any, shardings: Any,
) -> Any:
  """The parameters that are wanted, all of them checked before one is read."""
  _check(folder, model.config, wanted, tensors)
  if shardings is None:
    shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _: shardings, wanted)

  def place(name, keys, shape, sharding):
    read = functools.partial(_read, tensors[name], _transposed(keys), dtype)
    return jax.make_array_from_callback(shape, sharding, read)

  def read_leaf(path, leaf, sharding):
    keys = _keys(path)
    names = _published(model.config, keys)
    if keys[0] != 'layers':
      return place(names[0], keys, leaf.shape, sharding)
    put = jax.jit(
        lambda stack, part, layer: jax.lax.dynamic_update_index_in_dim(
            stack, part, layer, 0
        ),
        donate_argnums=0, out_shardings=sharding,
    )
    stack = jnp.zeros(leaf.shape, dtype, device=sharding)
    for i, name in enumerate(names):
      part = place(name, keys, leaf.shape[1:], _of_layer(sharding))
      stack = put(stack, part, i)
    return stack

  return jax.tree_util.tree_map_with_path(read_leaf, wanted, shardings)


class _Part(NamedTuple):
  """A tensor to be stored: a leaf, or one layer of it."""

  leaf: jax.Array
  layer: int | None
  transposed: bool
  dtype: np.dtype

  def num_bytes(self) -> int:
    """On disk."""
    layers = 1 if self.layer is None else len(self.leaf)
    return self.leaf.size // layers * self.dtype.itemsize

  def read(self) -> np.ndarray:
    """Brings it to the host."""
    own = self.leaf if self.layer is None else self.leaf[self.layer]
    own = hosts.whole(own.astype(self.dtype))
    return np.ascontiguousarray(own.T if self.transposed else own)


def save(
    model: forward.Model, params: Any, path: Any, tokenizer: Any = None,
    dtype: Any = None, max_shard_size: int | str = '5GB',
) -> None:
  """Writes a Hugging Face model directory that `load` and transformers read.

  Args:
    model: from `load` or `build`.
    params: its parameters; adapters are added to the kernels.
    path: the directory; made if it is not there. Weights in it are replaced.
    tokenizer: to be stored beside the weights.
    dtype: of the stored tensors; the parameters' own by default.
    max_shard_size: bytes of a file, beyond which there are several and an
      index; as much is in a host's memory at a time. The first host writes.
  """
  model, params = adapters.merge(model, params)
  parts = {}
  for keys_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = _keys(keys_path)
    names = _published(model.config, keys)
    layers = range(len(names)) if keys[0] == 'layers' else [None]
    stored = np.dtype(dtype or leaf.dtype)
    for name, layer in zip(names, layers, strict=True):
      parts[name] = _Part(leaf, layer, _transposed(keys), stored)
  split = huggingface_hub.split_state_dict_into_shards_factory(
      parts, get_storage_size=_Part.num_bytes,
      filename_pattern='model{suffix}.safetensors',
      max_shard_size=max_shard_size,
  )
  if not hosts.first():
    for names in split.filename_to_tensors.values():
      for name in names:
        parts[name].read()  # its share of what the first host writes
    return
  with written(path) as folder:
    for file, names in split.filename_to_tensors.items():
      save_file(
          {name: parts[name].read() for name in names}, folder / file,
          metadata=dict(format='pt'),
      )
    if split.is_sharded:
      (folder / _INDEX).write_text(json.dumps(dict(
          metadata=split.metadata, weight_map=split.tensor_to_filename
      ), indent=2, sort_keys=True))
    save_model(model, folder, tokenizer, str(stored))
    for file in split.filename_to_tensors:
      # safetensors lets nobody else read its files.
      shutil.copymode(folder / 'config.json', folder / file)
  kept = {*split.filename_to_tensors, *([_INDEX] if split.is_sharded else [])}
  for file in epath.Path(path).iterdir():
    ours = re.fullmatch(r'model(-\d{5}-of-\d{5})?\.safetensors', file.name)
    if (ours or file.name == _INDEX) and file.name not in kept:
      file.unlink()

"""Weights: reads and writes the Hugging Face directory layout (safetensors)."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoTokenizer

from gradlens.models import config as config_lib
from gradlens.models import forward

_WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'

# The small byte-level model that the package ships; see its README.
WARM = pathlib.Path(__file__).parent / 'warm'

# Our path below a layer -> the published one. Kernels are stored transposed.
_LAYER = {
    ('attention_norm', 'scale'): 'input_layernorm.weight',
    ('feed_forward_norm', 'scale'): 'post_attention_layernorm.weight',
    ('attention', 'q', 'kernel'): 'self_attn.q_proj.weight',
    ('attention', 'k', 'kernel'): 'self_attn.k_proj.weight',
    ('attention', 'v', 'kernel'): 'self_attn.v_proj.weight',
    ('attention', 'o', 'kernel'): 'self_attn.o_proj.weight',
    ('attention', 'q', 'bias'): 'self_attn.q_proj.bias',
    ('attention', 'k', 'bias'): 'self_attn.k_proj.bias',
    ('attention', 'v', 'bias'): 'self_attn.v_proj.bias',
    ('attention', 'q_norm', 'scale'): 'self_attn.q_norm.weight',
    ('attention', 'k_norm', 'scale'): 'self_attn.k_norm.weight',
    ('feed_forward', 'gate', 'kernel'): 'mlp.gate_proj.weight',
    ('feed_forward', 'up', 'kernel'): 'mlp.up_proj.weight',
    ('feed_forward', 'down', 'kernel'): 'mlp.down_proj.weight',
}
_ARCHITECTURES = dict(
    llama='LlamaForCausalLM', qwen2='Qwen2ForCausalLM',
    qwen3='Qwen3ForCausalLM',
)
_TOP = {
    ('embed', 'embedding'): 'model.embed_tokens.weight',
    ('norm', 'scale'): 'model.norm.weight',
    ('head', 'kernel'): 'lm_head.weight',
}


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(entry.key for entry in path)


def _published(keys: tuple[str, ...], num_layers: int) -> list[str]:
  """Names of the stored tensors of a parameter: one, or one a layer."""
  if keys[0] != 'layers':
    return [_TOP[keys]]
  name = _LAYER[keys[1:]]
  return [f'model.layers.{i}.{name}' for i in range(num_layers)]


def _transposed(keys: tuple[str, ...]) -> bool:
  return keys[-1] == 'kernel'


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Which file holds each tensor."""
  if (folder / _INDEX).exists():
    index = json.loads((folder / _INDEX).read_text())['weight_map']
    return {name: folder / file for name, file in index.items()}
  if not (folder / _WEIGHTS).exists():
    raise FileNotFoundError(
        f'{folder} holds neither {_WEIGHTS} nor {_INDEX}: not a Hugging Face'
        ' model directory with safetensors weights.'
    )
  with _open(folder / _WEIGHTS) as tensors:
    return {name: folder / _WEIGHTS for name in tensors.keys()}


def _open(path: pathlib.Path):
  try:
    return safe_open(path, framework='flax')
  except Exception as error:
    raise ValueError(
        f'{path} cannot be read as safetensors ({error}); copy it again.'
    ) from error


def load_model(path: Any) -> forward.Model:
  """The model of a Hugging Face directory's `config.json`, without weights.

  Raises:
    FileNotFoundError: there is no `config.json`.
    ValueError: an unsupported family or option, by name.
  """
  folder = pathlib.Path(path)
  if not (folder / 'config.json').exists():
    raise FileNotFoundError(
        f'{folder} holds no config.json: not a Hugging Face model directory.'
    )
  return forward.build(
      config_lib.from_huggingface(AutoConfig.from_pretrained(folder))
  )


def load(
    path: Any, dtype: Any = jnp.float32
) -> tuple[forward.Model, Any]:
  """Reads a Hugging Face model directory.

  Args:
    path: a local directory with `config.json` and safetensors weights (one
      file, or several and their index).
    dtype: of the returned parameters.

  Returns:
    `model` (no arrays, hashable) and `params`, a nested dict of arrays in
    which the layers are stacked.

  Raises:
    FileNotFoundError: no configuration or weights there.
    ValueError: an unsupported family or option, an unreadable file, or
      tensors that are missing, unexpected or of another shape, by name.
  """
  folder, model = pathlib.Path(path), load_model(path)
  files = _files(folder)
  wanted = jax.eval_shape(lambda: forward.init(model, jax.random.key(0)))
  problems, used = [], set()

  def read(path, leaf):
    keys = _keys(path)
    names = _published(keys, model.config.num_hidden_layers)
    shape = leaf.shape[1:] if keys[0] == 'layers' else leaf.shape
    used.update(names)
    parts = []
    for name in names:
      if name not in files:
        problems.append(f'{name} is missing')
        continue
      with _open(files[name]) as tensors:
        part = tensors.get_tensor(name)
      part = (part.T if _transposed(keys) else part).astype(dtype)
      if part.shape != shape:
        problems.append(f'{name} has shape {part.shape}, expected {shape}')
      parts.append(part)
    if problems:
      return None
    return jnp.stack(parts) if keys[0] == 'layers' else parts[0]

  params = jax.tree_util.tree_map_with_path(read, wanted)
  extra = set(files) - used
  if model.config.tie_word_embeddings:
    extra.discard('lm_head.weight')  # a stored copy of the embedding
  problems += [f'{name} is not expected' for name in sorted(extra)]
  if problems:
    raise ValueError(
        f'{folder} does not hold the model of its config.json: '
        + '; '.join(problems) + '.'
    )
  return model, params


def save_model(
    model: forward.Model, path: Any, tokenizer: Any, dtype: str = 'float32'
) -> None:
  """Writes a model's `config.json` and its tokenizer, without weights."""
  architecture = _ARCHITECTURES[model.config.model_type]
  config_lib.to_huggingface(
      model.config, dtype=dtype, architectures=[architecture]
  ).save_pretrained(path)
  tokenizer.save_pretrained(path)


def save(
    model: forward.Model, params: Any, path: Any, tokenizer: Any,
    dtype: Any = None,
) -> None:
  """Writes a Hugging Face model directory that `load` and transformers read.

  Args:
    model: from `load` or `build`.
    params: its parameters.
    path: the directory; made if it is not there.
    tokenizer: to be stored beside the weights.
    dtype: of the stored tensors; the parameters' own by default.
  """
  folder = pathlib.Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  tensors = {}
  for keys_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = _keys(keys_path)
    names = _published(keys, model.config.num_hidden_layers)
    parts = np.asarray(leaf.astype(dtype or leaf.dtype))
    for name, part in zip(
        names, parts if keys[0] == 'layers' else [parts], strict=True
    ):
      part = part.T if _transposed(keys) else part
      tensors[name] = np.ascontiguousarray(part)
  save_file(tensors, folder / _WEIGHTS, metadata=dict(format='pt'))
  stored = next(iter(tensors.values())).dtype
  save_model(model, folder, tokenizer, str(stored))


def load_tokenizer(path: Any) -> Any:
  """The tokenizer stored in a Hugging Face model directory."""
  return AutoTokenizer.from_pretrained(path)

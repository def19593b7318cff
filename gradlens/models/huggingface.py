"""The Hugging Face layout: hub, configuration and tokenizer of a model."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import fnmatch
import functools
import hashlib
import os
import pathlib
import re
import tempfile
from typing import Any

from etils import epath
import huggingface_hub
from huggingface_hub import errors as hub_errors
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
)

from gradlens.models import forward
from gradlens.models.config import (
    FULL,
    OPTIONS,
    SCALINGS,
    SLIDING,
    DecoderConfig,
    RopeScaling,
    checked_scaling,
)
from gradlens.models.families import FAMILIES

# The small byte-level model that the package ships; see its README.
WARM = pathlib.Path(__file__).parent / 'warm'


# Options that would change the numbers, and the only values that are built.
_REQUIRED = dict(
    mlp_bias=(False,), pretraining_tp=(1,), attn_logit_softcapping=(None,),
    final_logit_softcapping=(None,), use_bidirectional_attention=(False, None),
)


# No pickles and no code.
_READ = ['*.safetensors', '*.json', '*.txt', '*.jinja', 'tokenizer.model']


def local(path: Any) -> pathlib.Path:
  """The directory itself, or a local copy of a bucket's or a hub's files.

  Args:
    path: a directory, one in a bucket (gs://...), or `owner/name` on the
      Hugging Face hub.

  Raises:
    FileNotFoundError: neither is there, or the hub cannot be read.
  """
  if _remote(path):
    return _copied(os.fspath(path))
  folder = pathlib.Path(path)
  if folder.exists() or not re.fullmatch(r'[\w-]+/[\w.-]+', str(path)):
    return folder
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
        str(path),
        allow_patterns=_READ,
    ))
  except (hub_errors.HfHubHTTPError, hub_errors.LocalEntryNotFoundError) as e:
    raise FileNotFoundError(
        f'{path} is no directory here, and the Hugging Face hub does not give'
        f' it: {str(e).splitlines()[0]}'
    ) from e


def _remote(path: Any) -> bool:
  return '://' in os.fspath(path)


@functools.cache
def _copied(path: str) -> pathlib.Path:
  """A bucket's folder among temporary files, where a program finds it again.

  Readers of safetensors and tokenizers want files of their own.

  Raises:
    FileNotFoundError: there is none.
  """
  source = epath.Path(path)
  if not source.exists():
    raise FileNotFoundError(f'{path} is not there, or cannot be read.')
  name = hashlib.sha256(f'{os.getuid()} {path}'.encode()).hexdigest()[:16]
  folder = pathlib.Path(tempfile.gettempdir()) / f'gradlens-{name}'
  folder.mkdir(mode=0o700, exist_ok=True)
  for file in source.iterdir():
    own = folder / file.name
    if not any(fnmatch.fnmatch(file.name, pattern) for pattern in _READ):
      continue
    there = file.stat()
    here = own.stat() if own.exists() else None
    # Weights that were trained on have the size of those before.
    if here is None or (here.st_size, int(here.st_mtime)) != (
        there.length, int(there.mtime)
    ):
      part = own.with_name(own.name + '.part')
      file.copy(part, overwrite=True)
      os.utime(part, (int(there.mtime),) * 2)
      part.replace(own)
  for own in {*folder.iterdir()}:
    if not (source / own.name).exists():
      own.unlink()  # of a model that was there before
  return folder


@contextlib.contextmanager
def written(path: Any) -> Iterator[pathlib.Path]:
  """A directory to write into, whose files come to lie in the path."""
  if not _remote(path):
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    return
  with tempfile.TemporaryDirectory() as name:
    yield pathlib.Path(name)
    folder = epath.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for file in epath.Path(name).iterdir():
      file.copy(folder / file.name, overwrite=True)
  _copied.cache_clear()


def _from_rope(rope: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
  """Base and scaling of one Hugging Face `rope_parameters`."""
  rest = {key: value for key, value in rope.items() if value is not None}
  theta = rest.pop('rope_theta')
  if rest.pop('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(
        f'partial_rotary_factor={rope["partial_rotary_factor"]} is not'
        ' supported; gradlens rotates whole heads.'
    )
  if rest['rope_type'] == 'default':
    return theta, None
  if rest['rope_type'] not in SCALINGS:
    rest = dict(rope_type=rest['rope_type'], factor=rest.get('factor', 1.0))
  return theta, checked_scaling(rest)


def _as_tuple(tokens: int | Sequence[int] | None) -> tuple[int, ...]:
  """Stop tokens, which Hugging Face writes in three ways."""
  if tokens is None:
    return ()
  return (tokens,) if isinstance(tokens, int) else tuple(tokens)


def from_huggingface(config: PretrainedConfig) -> DecoderConfig:
  """Reads a transformers configuration; refuses what is not built, by name.

  Of Gemma 3 with images, the text model.
  """
  if config.model_type == 'gemma3':
    config = config.text_config
  fields = config.to_dict()
  family = FAMILIES.get(config.model_type)
  if family is None:
    raise ValueError(
        f'model_type={config.model_type!r} is not supported; choose one of'
        f' {", ".join(FAMILIES)}.'
    )
  activations = dict.fromkeys(
      ('hidden_act', 'hidden_activation'), (family.activation,)
  )
  for key, built in (_REQUIRED | activations).items():
    if fields.get(key, built[0]) not in built:
      raise ValueError(
          f'{key}={fields[key]!r} is not supported; gradlens builds'
          f' {built[0]!r}.'
      )
  rope = fields['rope_parameters']
  if 'rope_local_base_freq' in family.options:
    fields['rope_local_base_freq'], scaling = _from_rope(rope[SLIDING])
    if scaling is not None:
      raise ValueError(
          f'rope_type={scaling.rope_type!r} of {SLIDING} is not supported.'
      )
    rope = rope[FULL]
  fields['rope_theta'], fields['rope_scaling'] = _from_rope(rope)
  fields['eos_token_id'] = _as_tuple(fields.get('eos_token_id'))
  if fields.get('head_dim') is None:
    fields['head_dim'] = config.hidden_size // config.num_attention_heads
  names = [field.name for field in dataclasses.fields(DecoderConfig)]
  return DecoderConfig(
      **{name: fields[name] for name in names if name in fields}
  )


def to_huggingface(config: DecoderConfig, **extra: Any) -> PretrainedConfig:
  """The transformers configuration of a decoder, to be saved beside weights."""
  foreign = set(OPTIONS) - set(config.family.options)
  fields = {
      name: value for name, value in vars(config).items()
      if value is not None and name not in foreign
  }
  scaling = fields.pop('rope_scaling', RopeScaling('default', None))
  rope = {
      name: value for name, value in scaling._asdict().items()
      if value is not None
  }
  rope['rope_theta'] = fields.pop('rope_theta')
  if 'rope_local_base_freq' in config.family.options:
    local = fields.pop('rope_local_base_freq', config.rope_theta)
    rope = {FULL: rope, SLIDING: dict(rope_type='default', rope_theta=local)}
    fields.setdefault('layer_types', (FULL,) * config.num_hidden_layers)
    fields.setdefault('query_pre_attn_scalar', config.head_dim)
  if 'layer_types' in fields:
    fields['layer_types'] = list(fields['layer_types'])
    fields['use_sliding_window'] = SLIDING in fields['layer_types']
  # Not a family's defaults, which belong to its own tokenizer.
  fields['eos_token_id'] = list(config.eos_token_id) or None
  return AutoConfig.for_model(
      fields.pop('model_type'), rope_parameters=rope, bos_token_id=None,
      pad_token_id=None, **fields, **extra
  )


def load_model(path: Any) -> forward.Model:
  """The model of a Hugging Face directory's `config.json`, without weights.

  Raises:
    FileNotFoundError: there is no `config.json`.
    ValueError: an unsupported family or option, by name.
  """
  folder = local(path)
  if not (folder / 'config.json').exists():
    raise FileNotFoundError(
        f'{folder} holds no config.json: not a Hugging Face model directory.'
    )
  config = from_huggingface(
      AutoConfig.from_pretrained(folder, trust_remote_code=False)
  )
  if (folder / 'generation_config.json').exists():
    # Chat models name more ends here: of a turn, beside that of a text.
    more = GenerationConfig.from_pretrained(folder).eos_token_id
    stops = {*config.eos_token_id, *_as_tuple(more)}
    config = dataclasses.replace(config, eos_token_id=tuple(sorted(stops)))
  return forward.build(config)


def save_model(
    model: forward.Model, path: Any, tokenizer: Any = None,
    dtype: str = 'float32',
) -> None:
  """Writes a model's `config.json` and its tokenizer, without weights."""
  architecture = model.config.family.architecture
  with written(path) as folder:
    to_huggingface(
        model.config, dtype=dtype, architectures=[architecture]
    ).save_pretrained(folder)
    if tokenizer is not None:
      tokenizer.save_pretrained(folder)


def load_tokenizer(path: Any) -> Any:
  """The tokenizer of a Hugging Face model directory, or of a hub repository."""
  return AutoTokenizer.from_pretrained(local(path), trust_remote_code=False)

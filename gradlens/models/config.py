"""Model configuration: the Hugging Face fields that the decoder understands."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax

from gradlens.models.families import FAMILIES, Family

FULL, SLIDING = 'full_attention', 'sliding_attention'

class RopeScaling(NamedTuple):
  """How rotary frequencies are stretched; as in Hugging Face `rope_scaling`.

  Attributes:
    rope_type: 'linear', all by `factor`; or 'llama3', by `factor` where a
      wave is longer than `original_max_position_embeddings / low_freq_factor`,
      not at all where shorter than `... / high_freq_factor`, and between the
      two in between.
  """

  rope_type: str
  factor: float
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  original_max_position_embeddings: int | None = None


# What each type needs.
SCALINGS = dict(linear=('factor',), llama3=RopeScaling._fields[1:])


# Fields that are options of some families only.
OPTIONS = sorted({
    name for family in FAMILIES.values() for name in family.options
})


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and options, under their Hugging Face names; hashable.

  Attributes:
    rope_scaling: of layers with full attention; None, or a dict as in
      `config.json`.
    rope_local_base_freq: the rotary base of layers with a sliding window, in
      families where it is another one.
    layer_types: 'full_attention' or 'sliding_attention' for each layer; None:
      all are full.
    sliding_window: how many tokens a sliding layer sees, its own included.
    query_pre_attn_scalar: scores are divided by its root; None is `head_dim`.
    eos_token_id: tokens that end a completion, beside the tokenizer's own.
  """

  model_type: str
  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  head_dim: int
  max_position_embeddings: int
  rms_norm_eps: float = 1e-6
  rope_theta: float = 10_000.0
  initializer_range: float = 0.02
  tie_word_embeddings: bool = True
  attention_bias: bool = False
  rope_scaling: RopeScaling | None = None
  rope_local_base_freq: float | None = None
  layer_types: tuple[str, ...] | None = None
  sliding_window: int | None = None
  query_pre_attn_scalar: float | None = None
  eos_token_id: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    if self.model_type not in FAMILIES:
      raise ValueError(
          f'model_type={self.model_type!r} is not supported; choose one of'
          f' {", ".join(FAMILIES)}.'
      )
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(
          f'num_attention_heads={self.num_attention_heads} is not a multiple'
          f' of num_key_value_heads={self.num_key_value_heads}.'
      )
    # A frozen dataclass is completed this way only.
    object.__setattr__(self, 'rope_scaling', checked_scaling(self.rope_scaling))
    object.__setattr__(self, 'layer_types', self._checked_layer_types())
    if self.layer_types is None:
      object.__setattr__(self, 'sliding_window', None)
    for name in OPTIONS:
      value = getattr(self, name)
      if value and name not in self.family.options:
        raise ValueError(f'{name}={value} is no option of {self.model_type}.')

  def _checked_layer_types(self) -> tuple[str, ...] | None:
    if self.layer_types is None or set(self.layer_types) == {FULL}:
      return None
    unknown = set(self.layer_types) - {FULL, SLIDING}
    if unknown:
      raise ValueError(
          f'layer_types holds {", ".join(sorted(unknown))}; gradlens builds'
          f' {FULL} and {SLIDING}.'
      )
    if len(self.layer_types) != self.num_hidden_layers:
      raise ValueError(
          f'layer_types has {len(self.layer_types)} entries for'
          f' num_hidden_layers={self.num_hidden_layers}.'
      )
    if self.sliding_window is None or self.sliding_window < 1:
      raise ValueError(
          f'sliding_window={self.sliding_window} must be at least 1 where'
          f' layer_types has {SLIDING}.'
      )
    return tuple(self.layer_types)

  @property
  def family(self) -> Family:
    """What sets this model type apart."""
    return FAMILIES[self.model_type]

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kinds of attention that layers have, each once."""
    return tuple(sorted(set(self.layer_types or (FULL,))))

  @property
  def windows(self) -> tuple[int | None, ...]:
    """How many tokens each kind sees; None is all."""
    return tuple(
        self.sliding_window if kind == SLIDING else None for kind in self.kinds
    )


class Lora(NamedTuple):
  """Low-rank adapters beside linear layers (Hu et al., 2021, arXiv 2106.09685).

  Attributes:
    rank: of each adapter.
    alpha: what an adapter gives is scaled by `alpha / rank`.
    targets: the layers that have one, of `LINEAR`.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]


# The linear layers of a transformer layer.
LINEAR = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')


class Compute(NamedTuple):
  """How a model is computed: what comes out is the same, to rounding.

  Attributes:
    dtype: of activations and matrix products, 'bfloat16' say; None is that of
      the parameters. Norms, rotary angles, softmax and logits are float32.
    attention: of whole sequences, a name in `models.KERNELS`.
    remat: what of a layer is kept for the way back, a name in `models.REMAT`.
  """

  dtype: str | None = None
  attention: str = 'plain'
  remat: str = 'full'

  def cast(self, arrays: Any) -> Any:
    """To the dtype of products."""
    if self.dtype is None:
      return arrays
    return jax.tree.map(lambda a: a.astype(self.dtype), arrays)


def checked_scaling(given: Any) -> RopeScaling | None:
  """Checked; from a mapping as well."""
  if given is None:
    return None
  if isinstance(given, Mapping):
    extra = set(given) - set(RopeScaling._fields)
    if extra or 'rope_type' not in given or 'factor' not in given:
      raise ValueError(
          f'rope_scaling={dict(given)} is not supported; it takes'
          f' {", ".join(RopeScaling._fields)}.'
      )
    given = RopeScaling(**given)
  needed = SCALINGS.get(given.rope_type)
  if needed is None:
    raise ValueError(
        f'rope_type={given.rope_type!r} is not supported; gradlens builds'
        f" 'default', {', '.join(map(repr, SCALINGS))}."
    )
  for name in given._fields[1:]:
    if (getattr(given, name) is None) == (name in needed):
      raise ValueError(
          f'rope_scaling has {name}={getattr(given, name)}; {given.rope_type}'
          f' takes {", ".join(needed)}.'
      )
  return given

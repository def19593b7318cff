"""Model configuration: the Hugging Face fields that the decoder understands."""

import dataclasses
from typing import Any, NamedTuple

from transformers import AutoConfig, PretrainedConfig


class Family(NamedTuple):
  """What distinguishes one published decoder family from another."""

  attention_bias: bool  # biases on the query, key and value projections
  qk_norm: bool  # RMSNorm on each head's queries and keys


FAMILIES = dict(
    llama=Family(attention_bias=False, qk_norm=False),
    qwen2=Family(attention_bias=True, qk_norm=False),
    qwen3=Family(attention_bias=False, qk_norm=True),
)

# Options that would change the numbers, and the only value that is built.
_REQUIRED = dict(
    hidden_act='silu', use_sliding_window=False, mlp_bias=False,
    pretraining_tp=1,
)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes of a decoder, under their Hugging Face names; hashable."""

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

  @property
  def family(self) -> Family:
    return FAMILIES[self.model_type]


def from_huggingface(config: PretrainedConfig) -> DecoderConfig:
  """Reads a transformers configuration; refuses what is not built, by name."""
  fields = config.to_dict()
  for key, built in _REQUIRED.items():
    if fields.get(key, built) != built:
      raise ValueError(
          f'{key}={fields[key]!r} is not supported; gradlens builds {built!r}.'
      )
  rope = fields['rope_parameters']
  if rope['rope_type'] != 'default':
    raise ValueError(
        f'rope_type={rope["rope_type"]!r} is not supported; gradlens builds'
        " 'default'."
    )
  if config.model_type in FAMILIES:
    # Qwen2's biases are part of the family; Llama's and Qwen3's are an option.
    bias = fields.get('attention_bias', config.model_type == 'qwen2')
    if bias != FAMILIES[config.model_type].attention_bias:
      raise ValueError(
          f'attention_bias={bias} is not supported for {config.model_type}.'
      )
  fields['rope_theta'] = rope['rope_theta']
  if fields.get('head_dim') is None:
    fields['head_dim'] = config.hidden_size // config.num_attention_heads
  names = [field.name for field in dataclasses.fields(DecoderConfig)]
  return DecoderConfig(**{name: fields[name] for name in names})


def to_huggingface(config: DecoderConfig, **extra: Any) -> PretrainedConfig:
  """The transformers configuration of a decoder, to be saved beside weights."""
  fields = dataclasses.asdict(config)
  rope = dict(rope_type='default', rope_theta=fields.pop('rope_theta'))
  return AutoConfig.for_model(
      fields.pop('model_type'), rope_parameters=rope, **fields, **extra
  )

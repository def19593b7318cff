"""The published decoder families: what sets one apart, and its tensors' names.

A new family is an entry of `FAMILIES`.
"""

from collections.abc import Mapping
from typing import NamedTuple

# Our path below a layer -> the published one. Kernels are stored transposed.
_LAYER = {
    'attention_norm.scale': 'input_layernorm.weight',
    'feed_forward_norm.scale': 'post_attention_layernorm.weight',
    'attention.q.kernel': 'self_attn.q_proj.weight',
    'attention.k.kernel': 'self_attn.k_proj.weight',
    'attention.v.kernel': 'self_attn.v_proj.weight',
    'attention.o.kernel': 'self_attn.o_proj.weight',
    'attention.q.bias': 'self_attn.q_proj.bias',
    'attention.k.bias': 'self_attn.k_proj.bias',
    'attention.v.bias': 'self_attn.v_proj.bias',
    'attention.o.bias': 'self_attn.o_proj.bias',
    'attention.q_norm.scale': 'self_attn.q_norm.weight',
    'attention.k_norm.scale': 'self_attn.k_norm.weight',
    'feed_forward.gate.kernel': 'mlp.gate_proj.weight',
    'feed_forward.up.kernel': 'mlp.up_proj.weight',
    'feed_forward.down.kernel': 'mlp.down_proj.weight',
}

# The same for what is no layer's.
TOP = {
    'embed.embedding': 'model.embed_tokens.weight',
    'norm.scale': 'model.norm.weight',
    'head.kernel': 'lm_head.weight',
}

# Beginnings of names in models that read images too, and what they are here.
RENAMED = {
    'language_model.model.': 'model.',
    'model.language_model.': 'model.',
    'language_model.lm_head.': 'lm_head.',
}
# Their other parts, which are not read.
IMAGES = (
    'vision_tower.', 'multi_modal_projector.', 'model.vision_tower.',
    'model.multi_modal_projector.',
)


class Family(NamedTuple):
  """What distinguishes one published decoder family from another.

  Attributes:
    architecture: of transformers.
    options: those fields of `DecoderConfig` that not every family has.
    qkv_bias: biases on queries, keys and values always, on the output never.
    qk_norm: RMSNorm on each head's queries and keys.
    offset_norms: norms store the distance of their scale from 1.
    post_norms: a norm after attention and feed-forward too.
    activation: of the feed-forward gate, by its Hugging Face name.
    scaled_embedding: embeddings are multiplied by the root of their size.
    layer: path below a layer -> published name.
  """

  architecture: str
  options: tuple[str, ...]
  qkv_bias: bool = False
  qk_norm: bool = False
  offset_norms: bool = False
  post_norms: bool = False
  activation: str = 'silu'
  scaled_embedding: bool = False
  layer: Mapping[str, str] = _LAYER


FAMILIES = dict(
    llama=Family('LlamaForCausalLM', ('attention_bias',)),
    qwen2=Family('Qwen2ForCausalLM', ('layer_types',), qkv_bias=True),
    qwen3=Family(
        'Qwen3ForCausalLM', ('attention_bias', 'layer_types'), qk_norm=True
    ),
    gemma3_text=Family(
        'Gemma3ForCausalLM',
        ('attention_bias', 'layer_types', 'rope_local_base_freq',
         'query_pre_attn_scalar'),
        qk_norm=True,
        offset_norms=True,
        post_norms=True,
        activation='gelu_pytorch_tanh',
        scaled_embedding=True,
        layer=_LAYER | {
            'attention_post_norm.scale': 'post_attention_layernorm.weight',
            'feed_forward_norm.scale': 'pre_feedforward_layernorm.weight',
            'feed_forward_post_norm.scale': 'post_feedforward_layernorm.weight',
        },
    ),
)

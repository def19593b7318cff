"""Models: one decoder for every family, as pure functions of its parameters.

    model, params = models.load('path/of/a/huggingface/model')
    logits_BxLxV = models.logits(model, params, tokens_BxL)
    models.save(model, params, 'another/path', tokenizer)
"""

from gradlens.models.adapters import adapt, join, merge, split
from gradlens.models.classifier import load_classifier
from gradlens.models.config import LINEAR, Compute, DecoderConfig, Lora
from gradlens.models.forward import (
    Cache,
    Model,
    build,
    decode,
    init,
    logits,
    make_cache,
    prefill,
)
from gradlens.models.huggingface import (
    WARM,
    from_huggingface,
    load_model,
    load_tokenizer,
    save_model,
    to_huggingface,
)
from gradlens.models.kernels import KERNELS, choose_attention
from gradlens.models.layouts import Groups, Sequences
from gradlens.models.sharding import (
    DATA,
    TENSOR,
    check_mesh,
    make_mesh,
    sampling_mesh,
    shardings,
    shards,
    specs,
    specs_like,
)
from gradlens.models.tapped import BLOCKS, REMAT, blocks, tapped
from gradlens.models.vocabulary import Head, Scores, policy_logprobs, scores
from gradlens.models.weights import load, save

__all__ = [
    'BLOCKS', 'Cache', 'Compute', 'DATA', 'DecoderConfig', 'Groups', 'Head',
    'KERNELS', 'LINEAR', 'Lora', 'Model', 'REMAT', 'Scores', 'Sequences',
    'TENSOR', 'WARM', 'adapt', 'blocks', 'build', 'check_mesh',
    'choose_attention', 'decode', 'from_huggingface', 'init', 'join', 'load',
    'load_classifier', 'load_model', 'load_tokenizer', 'logits', 'make_cache',
    'make_mesh', 'merge', 'policy_logprobs', 'prefill', 'sampling_mesh', 'save',
    'save_model', 'scores', 'shardings', 'shards', 'specs', 'specs_like',
    'split', 'tapped', 'to_huggingface',
]

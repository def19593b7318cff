"""Models: one decoder for every family, as pure functions of its parameters.

    model, params = models.load('path/of/a/huggingface/model')
    logits_BxLxV = models.logits(model, params, tokens_BxL)
    models.save(model, params, 'another/path', tokenizer)
"""

from gradlens.models.config import DecoderConfig
from gradlens.models.forward import (
    Cache,
    Model,
    build,
    decode,
    init,
    logits,
    prefill,
)
from gradlens.models.huggingface import (
    WARM,
    load,
    load_model,
    load_tokenizer,
    save,
    save_model,
)
from gradlens.models.tapped import BLOCKS, blocks, tapped

__all__ = [
    'BLOCKS', 'Cache', 'DecoderConfig', 'Model', 'WARM', 'blocks', 'build',
    'decode', 'init', 'load', 'load_model', 'load_tokenizer', 'logits',
    'prefill', 'save', 'save_model', 'tapped',
]

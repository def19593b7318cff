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
from gradlens.models.tapped import BLOCKS, blocks, tapped
from gradlens.models.vocabulary import Scores, policy_logprobs, scores
from gradlens.models.weights import load, save

__all__ = [
    'BLOCKS', 'Cache', 'DecoderConfig', 'Model', 'Scores', 'WARM', 'blocks',
    'build', 'decode', 'from_huggingface', 'init', 'load', 'load_model',
    'load_tokenizer', 'logits', 'make_cache', 'policy_logprobs', 'prefill',
    'save', 'save_model', 'scores', 'tapped', 'to_huggingface',
]

"""Rollout: samples completions of prompts from the current policy."""

from gradlens.rollout.distribution import sampling_logprobs
from gradlens.rollout.generate import generate, generate_on
from gradlens.rollout.memory import cache_bytes
from gradlens.rollout.sampler import (
    MakeSampler,
    Sampler,
    make_sampler,
    request_keys,
)
from gradlens.rollout.slots import Completions

__all__ = [
    'Completions', 'MakeSampler', 'Sampler', 'cache_bytes', 'generate',
    'generate_on', 'make_sampler', 'request_keys', 'sampling_logprobs',
]

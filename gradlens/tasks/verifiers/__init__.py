"""Verifiers: `(completion, record) -> Score`, named by strings in configs."""

from gradlens.tasks.verifiers.score import Score, Verify
from gradlens.tasks.verifiers.spec import (
    KINDS,
    Sum,
    confined,
    parse,
    quote,
    rewards,
    runs_code,
)

__all__ = [
    'KINDS', 'Score', 'Sum', 'Verify', 'confined', 'parse', 'quote', 'rewards',
    'runs_code',
]

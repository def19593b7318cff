"""Mixture: which prompts a step takes from each task, and how many."""

from gradlens.mixture.kind import Kind
from gradlens.mixture.kinds import KINDS, make_kind
from gradlens.mixture.mixture import Draw, Mixture
from gradlens.mixture.quotas import exact_quotas
from gradlens.mixture.seen import Seen, plain

__all__ = [
    'KINDS', 'Draw', 'Kind', 'Mixture', 'Seen', 'exact_quotas', 'make_kind',
    'plain',
]

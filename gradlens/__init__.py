"""gradlens: task gradients, measured and corrected inside the training step."""

from gradlens.check import check
from gradlens.correct import CorrectState, correct, task_weights
from gradlens.decompose import task_value_and_grad
from gradlens.diagnostics import cosines, jackknife, shares, summarize
from gradlens.gram import by_layer, gram, gram_blocks, task_gram
from gradlens.partition import partition
from gradlens.types import Stacked, Weighting
from gradlens.weightings import (
    constant,
    equalize_norms,
    mean,
    pcgrad,
    stateless,
    total,
)

__version__ = '0.1.0'

__all__ = [
    'CorrectState',
    'Stacked',
    'Weighting',
    'by_layer',
    'check',
    'constant',
    'correct',
    'cosines',
    'equalize_norms',
    'gram',
    'gram_blocks',
    'jackknife',
    'mean',
    'partition',
    'pcgrad',
    'shares',
    'stateless',
    'summarize',
    'task_gram',
    'task_value_and_grad',
    'task_weights',
    'total',
]

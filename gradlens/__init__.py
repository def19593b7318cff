"""gradlens: task gradients, measured and corrected inside the training step."""

from gradlens.apply import value_and_grad_for
from gradlens.check import check
from gradlens.correct import Correction, correct
from gradlens.decompose import task_value_and_grad
from gradlens.diagnostics import cosines, jackknife, shares, summarize
from gradlens.estimates import floor_gram
from gradlens.gram import by_layer, gram, gram_blocks, task_gram
from gradlens.partition import partition
from gradlens.probe import Probe, Reading
from gradlens.sketch import sketch
from gradlens.state import CorrectState, task_weights
from gradlens.tap import Shared, tap
from gradlens.types import Stacked, Weighting
from gradlens.value_grad import value_grad_gram, value_grad_readings
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
    'Correction',
    'Probe',
    'Reading',
    'Shared',
    'Stacked',
    'Weighting',
    'by_layer',
    'check',
    'constant',
    'correct',
    'cosines',
    'equalize_norms',
    'floor_gram',
    'gram',
    'gram_blocks',
    'jackknife',
    'mean',
    'partition',
    'pcgrad',
    'shares',
    'sketch',
    'stateless',
    'summarize',
    'tap',
    'task_gram',
    'task_value_and_grad',
    'task_weights',
    'total',
    'value_and_grad_for',
    'value_grad_gram',
    'value_grad_readings',
]

"""gradlens: task gradients, measured and corrected inside the training step."""

from gradlens.apply import value_and_grad_for
from gradlens.check import check
from gradlens.check_taps import check_taps
from gradlens.correct import Correction, correct
from gradlens.decompose import task_value_and_grad
from gradlens.diagnostics import (
    adam_metric,
    along,
    block_proxies,
    conflict_rate,
    cosines,
    effective_rank,
    metric_gram,
    rank_correlation,
    shares,
    shares_along,
)
from gradlens.estimates import (
    critical_batch_size,
    floor_gram,
    noise_trace,
    prompt_norms,
    signal_to_noise,
)
from gradlens.gram import by_layer, gram, gram_blocks, task_gram
from gradlens.intervals import jackknife
from gradlens.partition import partition
from gradlens.probe import Probe, Reading
from gradlens.sketch import sketch
from gradlens.state import CorrectState, task_weights
from gradlens.summary import summarize
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
    'adam_metric',
    'along',
    'block_proxies',
    'by_layer',
    'check',
    'check_taps',
    'conflict_rate',
    'constant',
    'correct',
    'cosines',
    'critical_batch_size',
    'effective_rank',
    'equalize_norms',
    'floor_gram',
    'gram',
    'gram_blocks',
    'jackknife',
    'mean',
    'metric_gram',
    'noise_trace',
    'partition',
    'pcgrad',
    'prompt_norms',
    'rank_correlation',
    'shares',
    'shares_along',
    'signal_to_noise',
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

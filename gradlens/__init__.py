"""gradlens: task gradients, measured and corrected inside the training step."""

from gradlens.apply import value_and_grad_for
from gradlens.check import check
from gradlens.check_taps import check_taps
from gradlens.correct import Correction, correct
from gradlens.decompose import task_value_and_grad
from gradlens.diagnostics import (
    conflict_rate,
    cosines,
    effective_rank,
    imbalance,
    prompt_norms,
    shares,
)
from gradlens.elementwise import excess_mtl, graddrop, moco, trimmed_mean
from gradlens.estimates import (
    critical_batch_size,
    floor_gram,
    noise_trace,
    snr,
    squared_norms,
)
from gradlens.first_order import (
    adam_metric,
    gain_shares,
    in_metric,
    inner,
    predicted_gain,
)
from gradlens.gram import by_layer, gram, gram_blocks, task_gram
from gradlens.intervals import jackknife, norm_ratios, over_steps
from gradlens.partition import partition
from gradlens.probe import Probe, Reading
from gradlens.proxy import BlockProxy, block_proxies, rank_correlation
from gradlens.shards import Shards
from gradlens.shared import Shared
from gradlens.sketch import sketch
from gradlens.state import CorrectState, task_weights
from gradlens.summary import summarize
from gradlens.tap import tap
from gradlens.types import Stacked, Weighting
from gradlens.value_grad import value_grad_gram, value_grad_readings
from gradlens.weightings import (
    aligned_mtl,
    cagrad,
    clip_weights,
    conflict_free,
    constant,
    cr_mogm,
    dual_proj,
    dwa,
    ema_gram,
    equalize_norms,
    fairgrad,
    famo,
    gradnorm,
    gradvac,
    imtl_g,
    krum,
    mean,
    mgda,
    modo,
    mt_grpo,
    nash_mtl,
    pcd,
    pcgrad,
    random_weights,
    sdmgrad,
    stateless,
    stch,
    total,
    uncertainty_weighting,
    upgrad,
)

__version__ = '0.1.0'

__all__ = [
    'BlockProxy',
    'CorrectState',
    'Correction',
    'Probe',
    'Reading',
    'Shards',
    'Shared',
    'Stacked',
    'Weighting',
    'adam_metric',
    'aligned_mtl',
    'block_proxies',
    'by_layer',
    'cagrad',
    'check',
    'check_taps',
    'clip_weights',
    'conflict_free',
    'conflict_rate',
    'constant',
    'correct',
    'cosines',
    'cr_mogm',
    'critical_batch_size',
    'dual_proj',
    'dwa',
    'effective_rank',
    'ema_gram',
    'equalize_norms',
    'excess_mtl',
    'fairgrad',
    'famo',
    'floor_gram',
    'gain_shares',
    'graddrop',
    'gradnorm',
    'gradvac',
    'gram',
    'gram_blocks',
    'imbalance',
    'imtl_g',
    'in_metric',
    'inner',
    'jackknife',
    'krum',
    'mean',
    'mgda',
    'moco',
    'modo',
    'mt_grpo',
    'nash_mtl',
    'noise_trace',
    'norm_ratios',
    'over_steps',
    'partition',
    'pcd',
    'pcgrad',
    'predicted_gain',
    'prompt_norms',
    'random_weights',
    'rank_correlation',
    'sdmgrad',
    'shares',
    'sketch',
    'snr',
    'squared_norms',
    'stateless',
    'stch',
    'summarize',
    'tap',
    'task_gram',
    'task_value_and_grad',
    'task_weights',
    'total',
    'trimmed_mean',
    'uncertainty_weighting',
    'upgrad',
    'value_and_grad_for',
    'value_grad_gram',
    'value_grad_readings',
]

"""Tasks: prompts, the verifier that scores completions, and a split in two."""

from gradlens.tasks.attempts import confine
from gradlens.tasks.late import Late
from gradlens.tasks.loader import MIN_HELDOUT, MIN_PROMPTS, fingerprint, load
from gradlens.tasks.rewards import Rewards
from gradlens.tasks.sandbox import Limits
from gradlens.tasks.split import across
from gradlens.tasks.types import Record, Task
from gradlens.tasks.verifier import Result, Verifier

__all__ = [
    'Late', 'Limits', 'MIN_HELDOUT', 'MIN_PROMPTS', 'Record', 'Result',
    'Rewards', 'Task', 'Verifier', 'across', 'confine', 'fingerprint', 'load',
]

"""Evaluation: held-out rewards of every task, and the prompts it solves."""

from gradlens.evaluation.evaluation import (
    FOLDER,
    Evaluation,
    Recorded,
    evaluate,
    key,
    write,
)

__all__ = ['FOLDER', 'Evaluation', 'Recorded', 'evaluate', 'key', 'write']

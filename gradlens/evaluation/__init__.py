"""Evaluation: held-out rewards of tasks, and how many prompts are solved."""

from gradlens.evaluation.evaluation import (
    FOLDER,
    Evaluation,
    Recorded,
    evaluate,
    key,
    write,
)

__all__ = ['FOLDER', 'Evaluation', 'Recorded', 'evaluate', 'key', 'write']

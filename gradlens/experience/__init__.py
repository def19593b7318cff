"""Experience: completions of a step's prompts, with what they earned."""

from gradlens.experience.experience import (
    Answer,
    Batch,
    Collect,
    Drawn,
    Found,
    Sampled,
    references,
    sampled,
)

__all__ = [
    'Answer', 'Batch', 'Collect', 'Drawn', 'Found', 'Sampled', 'references',
    'sampled',
]

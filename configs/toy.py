"""Four small tasks, from the shipped warm start: the whole path in minutes.

    python -m gradlens.main --config=configs/toy.py --workdir=runs/toy
    python -m gradlens.main --config=configs/toy.py:correction=pcgrad ...

An argument after the colon changes keys, as `correction=NAME,num_steps=20`.
"""

import ml_collections

from gradlens.configs import default

# Prompts end in a mark of their task, so that no task looks like another.
TASKS = dict(
    angles=dict(
        source='rg:simple_geometry?min_sides=3&max_sides=3'
        '&min_angle=10&max_angle=80',
        pattern=r'are: (\d+)\.0°, (\d+)\.0°', template='{0},{1}^',
    ),
    chain_sum=dict(
        source='rg:chain_sum?min_terms=2&max_terms=2'
        '&min_digits=1&max_digits=2',
        pattern=r': (\d+) ([+-]) (\d+) =$', template='{0}{1}{2}=',
    ),
    palindrome=dict(
        source='rg:palindrome_generation?min_length=5&max_length=7',
        pattern=r'letters: (\w), (\w), (\w), (\w), (\w)'
        r'(?:, )?(\w?)(?:, )?(\w?)\n',
        template='{0}{1}{2}{3}{4}{5}{6}!',
    ),
    spell_backward=dict(
        source='rg:spell_backward?min_word_len=10&max_word_len=10',
        pattern=r': (\w+)$', template='{0}<',
    ),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on spelling, sums, palindromes and angles, all cut to a few bytes."""
  c = default.get_config()
  c.init_from = 'warm'
  c.compute.remat = 'none'  # a small model has the memory
  c.num_steps = 60
  c.prompts_per_task = 32
  c.optimizer.learning_rate = 2e-4
  c.evaluate.every = 20
  c.checkpoint.every = 20
  c.tasks = ml_collections.ConfigDict(TASKS)
  c.data.num_train = 3072
  c.rollout.max_prompt_tokens = 12
  c.rollout.max_new_tokens = 12
  default.parse_arg(c, arg)
  c.lock()
  return c

"""Toy."""

import ml_collections

from gradlens.configs import default


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Four tasks."""
  c = default.get_config()
  c.tasks = ml_collections.ConfigDict(dict(
      spell_backward=dict(
          source='rg:spell_backward?min_word_len=8&max_word_len=11',
          pattern=r': (\w+)$', template='{0}<',
      ),
      chain_sum=dict(
          source='rg:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=2',
          pattern=r': (\d+) ([+-]) (\d+) =$', template='{0}{1}{2}=',
      ),
      palindrome=dict(
          source='rg:palindrome_generation?min_length=4&max_length=6',
          pattern=r'letters: (\w), (\w), (\w), (\w)(?:, )?(\w?)(?:, )?(\w?)\n',
          template='{0}{1}{2}{3}{4}{5}!',
      ),
      angles=dict(
          source='rg:simple_geometry?min_sides=3&max_sides=3&min_angle=10&max_angle=75',
          pattern=r'are: (\d+)\.0°, (\d+)\.0°', template='{0},{1}^',
      ),
  ))
  c.data.num_train = 3072
  c.rollout.max_prompt_tokens = 12
  c.rollout.max_new_tokens = 12
  default.parse_arg(c, arg)
  c.lock()
  return c

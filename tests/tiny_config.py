"""A run that takes seconds: two tasks, and a model of 8,000 parameters."""

import ml_collections

from gradlens.configs import default


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Four steps; a checkpoint and an evaluation after every other one."""
  c = default.get_config()
  c.tasks = ml_collections.ConfigDict(dict(
      short=dict(
          source='rg:spell_backward?min_word_len=3&max_word_len=5',
          pattern=r': (\w+)$', template='{0}<',
      ),
      long=dict(
          source='rg:spell_backward?min_word_len=6&max_word_len=7',
          pattern=r': (\w+)$', template='{0}<',
      ),
  ))
  c.model.update(
      hidden_size=16, intermediate_size=16, num_hidden_layers=2,
      num_attention_heads=2, num_key_value_heads=1, head_dim=8,
      max_position_embeddings=32,
  )
  c.data.num_train = 768
  c.num_steps = 4
  c.prompts_per_task = 8
  c.num_completions = 4
  c.rollout.max_prompt_tokens = 8
  c.rollout.max_new_tokens = 8
  # A busy machine must not change a reward.
  c.verifier.update(cpu_seconds=60.0, wall_seconds=300.0)
  c.optimizer.warmup_steps = 1
  c.evaluate.update(every=2, num_completions=1, batch_size=256)
  c.checkpoint.every = 2
  default.parse_arg(c, arg)
  c.lock()
  return c

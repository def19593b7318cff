"""A GRPO run of gradlens by taps, or its sampler alone; prints seconds a step.

Started by `benchmarks.grpo`.
"""

import statistics
import sys
import time
from typing import Any

import characters
import jax
import jax.numpy as jnp
import numpy as np
import toy_tasks

from gradlens import experience, models, rollout, tasks, text
from gradlens.configs import default
from gradlens.experience import degenerate, places
from gradlens.step import objective, train_step
from gradlens.step.optimizer import make_optimizer

_NAMES = ('add', 'echo')


class Scorer:
  """In the place of the process that verifies: these rewards are harmless."""

  def __init__(self, rewards: toy_tasks.Rewards):
    self._rewards = rewards

  def score(self, items: list[tuple[str, str, Any]]) -> list[tasks.Result]:
    """One result for each."""
    names, completions, _ = zip(*items, strict=True)
    return [
        tasks.Result(score, 'ok') for score in self._rewards(names, completions)
    ]


def build(shape: toy_tasks.Shape) -> tuple[models.Model, Any]:
  """The model that the others have."""
  model = models.build(models.DecoderConfig(
      model_type='qwen2', vocab_size=toy_tasks.VOCABULARY,
      hidden_size=shape.width, intermediate_size=4 * shape.width,
      num_hidden_layers=shape.layers, num_attention_heads=4,
      num_key_value_heads=2, head_dim=shape.width // 4,
      max_position_embeddings=64, eos_token_id=(toy_tasks.END,),
  ))
  # The others keep all activations.
  model = model._replace(compute=models.Compute(remat='dots'))
  return model, models.init(model, jax.random.key(0))


def make_sampler(
    model: models.Model, shape: toy_tasks.Shape
) -> rollout.Sampler:
  """All at once, at temperature 1."""
  return rollout.make_sampler(
      model, max_new_tokens=shape.new, temperature=1.0,
      stop_tokens=(toy_tasks.END,),
  )


def train(shape: toy_tasks.Shape) -> float:
  """Seconds of a step."""
  model, params = build(shape)
  config = default.get_config()
  config.correction.apply = 'lagged'
  config.num_splits = 2 if shape.prompts > 2 else 1
  config.num_completions = shape.completions
  config.optimizer.update(b2=0.999, clip_norm=1e9, warmup_steps=0)
  optimizer = make_optimizer(config, len(_NAMES), None)
  step = jax.jit(train_step.make_train_step(
      model, optimizer,
      objective.grpo(advantage_scale='std', clip_low=0.2, clip_high=0.2),
      num_splits=config.num_splits, temperature=1.0,
      aggregate='sequence_mean', normalize='batch', instrument=True,
  ), donate_argnums=0)
  rewards = toy_tasks.Rewards(shape.new)
  tokenizer = characters.tokenizer()
  collect = places.collect(experience.sampled(
      make_sampler(model, shape), text.prompt_encoder(tokenizer), tokenizer,
      Scorer(rewards), num_completions=shape.completions,
      max_prompt_tokens=toy_tasks.LONGEST_PROMPT, max_new_tokens=shape.new,
      stop_tokens=(), num_rewards=1, equal=degenerate.equal_rewards,
  ), _NAMES)
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), jax.random.key(1), {}, {}
  )
  before = jax.tree.map(jnp.copy, params)  # the others are given away
  rows = toy_tasks.prompts(shape.prompts * shape.steps)
  for i in range(shape.steps):
    own = rows[i * shape.prompts : (i + 1) * shape.prompts]
    records = [
        [tasks.Record(prompt, '', {}) for task, prompt in own if task == name]
        for name in _NAMES
    ]
    sampled = collect(
        state.policy, records, jax.random.fold_in(state.key, i)
    )
    state, measured = step(state, sampled.batch)
  if not np.trace(sum(
      np.sum(gram, axis=tuple(range(gram.ndim - 2)))
      for gram in jax.device_get(measured.grams).values()
  )):
    raise RuntimeError('nothing was measured')
  moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), before, state.params
  )
  if not max(jax.tree.leaves(moved)):
    raise RuntimeError('nothing was trained')
  return rewards.step_seconds()


def sample(shape: toy_tasks.Shape) -> float:
  """Seconds of sampling what a step samples."""
  model, params = build(shape)
  encode = text.prompt_encoder(characters.tokenizer())
  prompts, mask = text.pad(
      [encode(prompt) for _, prompt in toy_tasks.prompts(shape.prompts)],
      toy_tasks.LONGEST_PROMPT, left=True,
  )
  # None ends early: everybody samples as many tokens.
  sampler = rollout.make_sampler(
      model, max_new_tokens=shape.new, temperature=1.0, stop_tokens=()
  )
  seconds = []
  for i in range(shape.steps):
    keys = rollout.request_keys(
        jax.random.key(i), (shape.prompts, shape.completions)
    )
    start = time.perf_counter()
    jax.block_until_ready(sampler(params, prompts, mask, keys))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[3:])


def main() -> None:
  """Trains or samples, and says how long a step takes."""
  work = dict(train=train, sample=sample)[sys.argv[2]]
  print(f'seconds {work(toy_tasks.read_shape(sys.argv[1]))}')


if __name__ == '__main__':
  main()

"""A GRPO run of Tunix, or its sampler alone; prints seconds a step.

Started by `benchmarks.grpo` in an environment with gradlens[bench-tunix].
"""

import statistics
import sys
import time
from typing import Any

from flax import nnx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import toy_tasks
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen2 import model as qwen2
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout


class Characters:
  """The tokenizer that Tunix asks for."""

  def encode(self, text: str, **options: Any) -> list[int]:
    """A token for each character."""
    del options
    return [toy_tasks.CHARACTERS.index(c) + toy_tasks.FIRST for c in text]

  def decode(self, tokens: Any, **options: Any) -> str:
    """Characters only."""
    del options
    return ''.join(
        toy_tasks.CHARACTERS[int(token) - toy_tasks.FIRST] for token in tokens
        if token >= toy_tasks.FIRST
    )

  def bos_id(self) -> int:
    """Tunix begins a prompt with it."""
    return toy_tasks.END

  def eos_id(self) -> int:
    """Ends a completion."""
    return toy_tasks.END

  def pad_id(self) -> int:
    """Stands where nothing is."""
    return toy_tasks.PAD


def build(shape: toy_tasks.Shape) -> nnx.Module:
  """A model drawn as transformers draws it; Tunix's own way says one token."""
  model = qwen2.Qwen2(
      qwen2.ModelConfig(
          num_layers=shape.layers, vocab_size=toy_tasks.VOCABULARY,
          embed_dim=shape.width, hidden_dim=4 * shape.width, num_heads=4,
          head_dim=shape.width // 4, num_kv_heads=2, rope_theta=10_000,
          norm_eps=1e-6, use_tied_embedding=True,
      ),
      rngs=nnx.Rngs(0),
  )
  key = jax.random.key(0)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    if leaf.ndim == 1 or 'bias' in name:
      return leaf
    own = jax.random.fold_in(key, sum(name.encode()))
    return 0.02 * jax.random.normal(own, leaf.shape, leaf.dtype)

  params = nnx.state(model, nnx.Param)
  nnx.update(model, jax.tree_util.tree_map_with_path(draw, params))
  return model


class Prompts(grain.sources.RandomAccessDataSource):
  """Of all steps."""

  def __init__(self, count: int):
    self._rows = toy_tasks.prompts(count)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, i: int) -> dict[str, str]:
    task, prompt = self._rows[i]
    return dict(task=task, prompts=prompt)


def train(shape: toy_tasks.Shape) -> float:
  """Seconds of a step."""
  devices = np.array(jax.devices()[:1]).reshape(1, 1)
  mesh = jax.sharding.Mesh(devices, ('fsdp', 'tp'))
  roles = rl_cluster.Role
  cluster = rl_cluster.RLCluster(
      actor=build(shape), reference=build(shape), tokenizer=Characters(),
      cluster_config=rl_cluster.ClusterConfig(
          role_to_mesh=dict.fromkeys(
              (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh
          ),
          rollout_engine='vanilla', offload_to_cpu=False,
          training_config=rl_cluster.RLTrainingConfig(
              actor_optimizer=optax.adamw(1e-3, weight_decay=0.0),
              eval_every_n_steps=10**9, max_steps=shape.steps,
          ),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=shape.new,
              max_prompt_length=toy_tasks.LONGEST_PROMPT,
              kv_cache_size=64, temperature=1.0, top_p=1.0,
          ),
      ),
  )
  rewards = toy_tasks.Rewards(shape.new)
  learner = grpo_learner.GRPOLearner(
      rl_cluster=cluster,
      reward_fns=lambda prompts, completions, task, **others: rewards(
          task, completions
      ),
      algo_config=grpo_learner.GRPOConfig(
          num_generations=shape.completions, num_iterations=1, beta=0.0
      ),
  )
  # The model it was given is not the one it trains.
  trained = cluster.actor_trainer.model
  before = jax.tree.map(jnp.copy, nnx.state(trained, nnx.Param))
  data = grain.MapDataset.source(Prompts(shape.prompts * (shape.steps + 1)))
  with mesh:
    learner.train(data.batch(shape.prompts))
  moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), before,
      nnx.state(trained, nnx.Param),
  )
  if not max(jax.tree.leaves(moved)):
    raise RuntimeError('nothing was trained')
  return rewards.step_seconds()


def sample(shape: toy_tasks.Shape) -> float:
  """Seconds of sampling what a step samples."""
  sampler = sampler_lib.Sampler(
      transformer=build(shape), tokenizer=Characters(),
      cache_config=sampler_lib.CacheConfig(
          cache_size=64, num_layers=shape.layers, num_kv_heads=2,
          head_dim=shape.width // 4,
      ),
  )
  prompts = [
      prompt for _, prompt in toy_tasks.prompts(shape.prompts)
      for _ in range(shape.completions)
  ]
  seconds = []
  for seed in range(shape.steps):
    start = time.perf_counter()
    jax.block_until_ready(sampler(
        prompts, max_generation_steps=shape.new, temperature=1.0, top_p=1.0,
        max_prompt_length=toy_tasks.LONGEST_PROMPT, seed=seed,
    ).tokens)
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[3:])


def main() -> None:
  """Trains or samples, and says how long a step takes."""
  work = dict(train=train, sample=sample)[sys.argv[2]]
  print(f'seconds {work(toy_tasks.read_shape(sys.argv[1]))}')


if __name__ == '__main__':
  main()

"""What the decomposition costs: the measuring step beside the plain one.

    python -m benchmarks.step --config=configs/toy.py

Both update the same parameters on the same batch of random tokens, in turn, so
that whatever else the machine does meets both. Times are medians, and ratios
are medians of the ratios of neighbors.
"""

from collections.abc import Callable
import statistics
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags

from gradlens.setup import build, goal
from gradlens.step import train_step
from gradlens.step.optimizer import make_optimizer

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.',
    lock_config=True,
)
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Steps of each kind.')
_CORRECTIONS = flags.DEFINE_list(
    'corrections', ['total', 'equalize_norms', 'pcgrad'], 'Measured in turn.'
)


def random_batch(
    config: ml_collections.ConfigDict, key: jax.Array
) -> train_step.Batch:
  """Completions of random bytes, all of full length, with random rewards."""
  k, b, g = (
      len(config.tasks), config.prompts_per_task, config.num_completions
  )
  t, c = config.rollout.max_prompt_tokens, config.rollout.max_new_tokens
  keys = jax.random.split(key, 3)
  return train_step.Batch(
      prompts_KxBxT=jax.random.randint(keys[0], (k, b, t), 3, 259),
      prompt_mask_KxBxT=jnp.ones((k, b, t), bool),
      tokens_KxBxGxC=jax.random.randint(keys[1], (k, b, g, c), 3, 259),
      mask_KxBxGxC=jnp.ones((k, b, g, c), bool),
      logprobs_KxBxGxC=jnp.full((k, b, g, c), -5.0),
      rewards_KxBxG=jax.random.uniform(keys[2], (k, b, g)),
      parts_KxBxGxM=jax.random.uniform(keys[2], (k, b, g, 1)),
  )


def compiled_step(
    config: ml_collections.ConfigDict, correction: str, instrument: bool
) -> tuple[Callable[..., Any], Any, Any, int]:
  """A compiled step, its state and batch, and its bytes of scratch memory."""
  config = ml_collections.ConfigDict(config)
  with config.unlocked():
    config.correction.name = correction
  model, params, frozen, _ = build.load_model(config)
  optimizer = make_optimizer(config, len(config.tasks), None)
  step = train_step.make_train_step(
      model, optimizer,
      goal.make_objective(
          config, model.config.eos_token_id, jnp.ones((len(config.tasks), 1))
      ),
      num_splits=config.num_splits,
      temperature=config.rollout.temperature, aggregate=config.loss.aggregate,
      normalize=config.loss.normalize, instrument=instrument,
      num_mini_batches=config.num_mini_batches,
      inner_epochs=config.inner_epochs,
  )
  key = jax.random.key(0)
  state = train_step.TrainState(
      params, optimizer.corrected.init(params), key, frozen,
      build.reference(config, model, params),
  )
  batch = random_batch(config, key)
  compiled = jax.jit(step).lower(state, batch).compile()
  return compiled, state, batch, compiled.memory_analysis().temp_size_in_bytes


def seconds(step: Callable[..., Any], *args: Any) -> float:
  """How long one call takes, results included."""
  start = time.perf_counter()
  jax.block_until_ready(step(*args))
  return time.perf_counter() - start


def main(argv: list[str]) -> None:
  """Prints one line for the plain step and one for each correction."""
  del argv
  config = _CONFIG.value
  plain, *plain_args, plain_bytes = compiled_step(config, 'total', False)
  seconds(plain, *plain_args)
  kind = jax.devices()[0].device_kind
  print(f'{kind}, jax {jax.__version__}, {_REPEATS.value} repeats')
  print(f'{"step":24} {"seconds":>8} {"x plain":>8} {"scratch MB":>11}')
  for name in _CORRECTIONS.value:
    step, *args, scratch = compiled_step(config, name, True)
    seconds(step, *args)
    pairs = [
        (seconds(plain, *plain_args), seconds(step, *args))
        for _ in range(_REPEATS.value)
    ]
    if name == _CORRECTIONS.value[0]:
      median = statistics.median(pair[0] for pair in pairs)
      print(f'{"plain":24} {median:8.3f} {1:8.2f} {plain_bytes / 1e6:11.1f}')
    median = statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(measured / of for of, measured in pairs)
    print(f'{name:24} {median:8.3f} {ratio:8.2f} {scratch / 1e6:11.1f}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['config'])
  app.run(main)

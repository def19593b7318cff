"""What the decomposition costs: the measuring step beside the plain one.

    python -m benchmarks.step --config=configs/toy.py

All update parameters on the same batch of random tokens, in turn, so that
whatever else the machine does meets all. Times are medians over rounds, and
ratios are medians of the ratios to the plain step of the same round.
"""

from collections.abc import Callable
import functools
import statistics
from typing import Any, NamedTuple

from absl import app, flags
import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags

from benchmarks import rounds
from gradlens import models
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
_PLAIN = 'plain'


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


class Step(NamedTuple):
  """A step that was compiled.

  Attributes:
    run: state and batch to a new state, and what was measured.
    start: a first state.
    shapes: of the state.
    scratch: bytes of memory, beside the state.
  """

  run: Callable[..., Any]
  start: Callable[[], train_step.TrainState]
  shapes: str
  scratch: int


def compiled_step(
    config: ml_collections.ConfigDict, correction: str, instrument: bool,
    batch: train_step.Batch,
) -> Step:
  """The step of a config, as a run compiles it, with another correction."""
  config = ml_collections.ConfigDict(config)
  with config.unlocked():
    config.correction.name = correction
  optimizer = make_optimizer(config, len(config.tasks), None)

  def start() -> tuple[models.Model, train_step.TrainState]:
    model, params, frozen, _ = build.load_model(config)
    return model, train_step.TrainState(
        params, optimizer.corrected.init(params), jax.random.key(0), frozen,
        build.reference(config, model, params),
    )

  model, state = start()
  objective = goal.make_objective(
      config, model.config.eos_token_id, jnp.ones((len(config.tasks), 1))
  )
  step = build.steps(config, model, optimizer, objective, None)[instrument]
  compiled = step.lower(state, batch).compile()
  return Step(
      compiled, lambda: start()[1], str(jax.eval_shape(lambda: state)),
      compiled.memory_analysis().temp_size_in_bytes,
  )


def main(argv: list[str]) -> None:
  """Prints one line for the plain step and one for each correction."""
  del argv
  config = _CONFIG.value
  batch = random_batch(config, jax.random.key(0))
  steps = {_PLAIN: compiled_step(config, 'total', False, batch)} | {
      name: compiled_step(config, name, True, batch)
      for name in _CORRECTIONS.value
  }
  states = {}  # by their shapes: a step writes on the one that it is given

  def run(step: Step) -> None:
    state = states.pop(step.shapes) if step.shapes in states else step.start()
    states[step.shapes], _ = jax.block_until_ready(step.run(state, batch))

  runs = {name: functools.partial(run, step) for name, step in steps.items()}
  for warm_up in runs.values():
    warm_up()
  seconds = rounds.interleave(runs, _REPEATS.value)
  kind = jax.devices()[0].device_kind
  print(f'{kind}, jax {jax.__version__}, {_REPEATS.value} repeats')
  print(f'{"step":24} {"seconds":>8} {"x plain":>8} {"scratch MB":>11}')
  for name, step in steps.items():
    median = statistics.median(seconds[name])
    ratio = rounds.median_ratio(seconds[name], seconds[_PLAIN])
    print(f'{name:24} {median:8.3f} {ratio:8.3f} {step.scratch / 1e6:11.1f}')


if __name__ == '__main__':
  flags.mark_flags_as_required(['config'])
  app.run(main)

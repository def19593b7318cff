"""Build: everything that a run needs, from its config, before any work."""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from transformers import ByT5Tokenizer

from gradlens import hosts, models, tasks, text
from gradlens.experience import Batch
from gradlens.setup import meshes
from gradlens.setup.values import about, check_values, max_prompts
from gradlens.step import train_step
from gradlens.step.objective import Objective
from gradlens.step.optimizer import Optimizer
from gradlens.workdir import checkpoint, claim


class Setup(NamedTuple):
  """A model with its first parameters, its tokenizer and its tasks.

  Attributes:
    model: without parameters.
    params: what is trained: all parameters, or adapters.
    frozen: the other parameters.
    tokenizer: of the model.
    encode_prompt: a record's prompt to tokens.
    tasks: in the order of every array's task axis.
    mesh: of the devices; None is the first one.
    reference: as in `TrainState`, of the first parameters.
  """

  model: models.Model
  params: Any
  frozen: Any
  tokenizer: Any
  encode_prompt: text.Encode
  tasks: list[tasks.Task]
  mesh: Mesh | None
  reference: Any

  @property
  def stop_tokens(self) -> tuple[int, ...]:
    """Any of which ends a completion."""
    ends = {self.tokenizer.eos_token_id, *self.model.config.eos_token_id}
    return tuple(sorted(ends))

  @property
  def names(self) -> list[str]:
    """Of the tasks, in the order of every array's task axis."""
    return [task.name for task in self.tasks]


def load_tasks(config: Any) -> list[tasks.Task]:
  """The tasks of a config.

  Raises:
    ValueError: there are none, or one cannot be loaded.
  """
  if not config.tasks:
    raise ValueError(
        'config.tasks is empty; name at least one, as configs/toy.py does.'
    )
  for name, spec in config.tasks.items():
    if set(spec) - {'verifier'} != {'source', 'pattern', 'template'}:
      raise ValueError(
          f'config.tasks.{name} has the keys {", ".join(spec)}; give it source,'
          ' pattern and template, and a verifier other than its own if you'
          ' like.'
      )
  alike = collections.Counter(name.casefold() for name in config.tasks)
  for name in config.tasks:
    if alike[name.casefold()] > 1:
      raise ValueError(
          f'config.tasks has two names that differ in case only, as {name!r};'
          ' rename one.'
      )
  loaded = tasks.across([
      tasks.load(
          name, spec.source, pattern=spec.pattern, template=spec.template,
          num_train=config.data.num_train, num_heldout=config.data.num_heldout,
          seed=config.seed,
          verifier=spec.verifier if 'verifier' in spec else '',
      )
      for name, spec in config.tasks.items()
  ])
  if config.objective == 'supervised':
    for task in loaded:
      if not all(record.answer for record in task.train):
        raise ValueError(
            f"objective='supervised' learns from reference answers, and the"
            f' source of task {task.name!r} has none; take another one.'
        )
  return loaded


def lora_of(config: Any) -> models.Lora:
  """The adapters of a config."""
  return models.Lora(
      config.lora.rank, config.lora.alpha,
      tuple(config.lora.targets.split('+')),
  )


def random_model(config: Any, tokenizer: Any) -> models.Model:
  """The model of `config.model`, without parameters."""
  return models.build(models.DecoderConfig(
      **config.model, eos_token_id=(tokenizer.eos_token_id,)
  ))


def load_model(
    config: Any, mesh: Mesh | None = None
) -> tuple[models.Model, Any, Any, Any]:
  """Model, trained and frozen parameters, and tokenizer."""
  model, params, tokenizer = _first_model(config, mesh)
  model = model._replace(
      compute=meshes.compute(
          config, mesh, jax.devices()[0], model.config.head_dim
      )
  )
  if not config.lora.rank:
    return model, params, {}, tokenizer
  lora = lora_of(config)
  key = jax.random.fold_in(jax.random.key(config.seed), 2)
  model, adapters = models.adapt(model, lora, key)
  adapters = jax.tree.map(
      hosts.spread, jax.device_get(adapters),
      models.shardings(mesh, models.specs(adapters)),
  )
  return model, adapters, model.compute.cast(params), tokenizer


def _first_model(
    config: Any, mesh: Mesh | None
) -> tuple[models.Model, Any, Any]:
  """From `init_from`, or drawn at random."""
  if config.init_from:
    named = f'config.init_from={config.init_from!r}'
    with about(named):
      of_model = hosts.agree(lambda: checkpoint.load_config(config.init_from))
    meshes.check_mesh(config, mesh, of_model)
    # What is not trained need not be more precise than its products.
    dtype = config.compute.dtype if config.lora.rank else 'float32'
    with about(named):
      return checkpoint.load_model(config.init_from, mesh, dtype)
  tokenizer = ByT5Tokenizer()
  model = random_model(config, tokenizer)
  meshes.check_mesh(config, mesh, model.config)
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  init = functools.partial(models.init, model)
  if mesh is not None:
    # Each device draws its own shards.
    specs = models.specs(jax.eval_shape(init, key))
    init = jax.jit(init, out_shardings=models.shardings(mesh, specs))
  return model, init(key), tokenizer


def reference(config: Any, model: models.Model, params: Any) -> Any:
  """What a KL term keeps of the first parameters.

  Nothing where there is no such term, or where adapters are trained, since the
  policy without them is there already.
  """
  if not config.loss.kl_coef or config.lora.rank:
    return {}
  # A step is given its state to write on: nothing in it may be there twice.
  return jax.tree.map(jnp.copy, model.compute.cast(params))


def setup(config: Any) -> Setup:
  """Loads model and tasks, and checks that they fit each other.

  Raises:
    ValueError: one sentence on what is wrong, where, and how to mend it.
  """
  hosts.check_same({
      **claim.versions(),
      **claim.flatten(config.to_dict(), 'config.'),
  })
  check_values(config)
  all_tasks = hosts.agree(lambda: load_tasks(config))
  mesh = meshes.make_mesh(config)
  model, params, frozen, tokenizer = load_model(config, mesh)
  r = config.rollout
  context = model.config.max_position_embeddings
  if r.max_prompt_tokens + r.max_new_tokens > context:
    raise ValueError(
        f'rollout.max_prompt_tokens={r.max_prompt_tokens} and'
        f' rollout.max_new_tokens={r.max_new_tokens} exceed the model\'s'
        f' context of {context} tokens; lower one of them.'
    )
  if len(tokenizer) > model.config.vocab_size:
    raise ValueError(
        f'model.vocab_size={model.config.vocab_size} is smaller than the'
        f" tokenizer's {len(tokenizer)} tokens; raise it."
    )
  encode_prompt = text.remembered(text.prompt_encoder(
      tokenizer, chat=config.prompt.chat, system=config.prompt.system
  ))
  if config.prompt.drop_long:
    all_tasks = [
        text.without_long(encode_prompt, task, r.max_prompt_tokens)
        for task in all_tasks
    ]
  for task in all_tasks:
    text.check_lengths(
        encode_prompt, tokenizer, task.name, task.train + task.heldout,
        max_prompt_tokens=r.max_prompt_tokens, max_new_tokens=r.max_new_tokens,
    )
  return Setup(
      model, params, frozen, tokenizer, encode_prompt, all_tasks, mesh,
      reference(config, model, params),
  )


def batch_shapes(config: Any, rewards: tasks.Rewards) -> Batch:
  """Of a step's batch."""
  k, b = len(rewards.names), max_prompts(config)
  g = config.num_completions if config.objective == 'grpo' else 1
  t, c = config.rollout.max_prompt_tokens, config.rollout.max_new_tokens
  shape = jax.ShapeDtypeStruct
  return Batch(
      shape((k, b, t), jnp.int32), shape((k, b, t), bool),
      shape((k, b, g, c), jnp.int32), shape((k, b, g, c), bool),
      shape((k, b, g, c), jnp.float32), shape((k, b, g), jnp.float32),
      shape((k, b, g, rewards.weights_KxM.shape[1]), jnp.float32),
  )


def steps(
    config: Any, model: models.Model, optimizer: Optimizer,
    goal: Objective, mesh: Mesh | None,
) -> dict[bool, Any]:
  """The compiled step, with and without the decomposition."""
  make = functools.partial(
      train_step.make_train_step, model, optimizer, goal,
      num_splits=config.num_splits, temperature=config.rollout.temperature,
      aggregate=config.loss.aggregate, normalize=config.loss.normalize,
      num_micro_batches=config.num_micro_batches,
      num_mini_batches=config.num_mini_batches,
      inner_epochs=config.inner_epochs, mesh=mesh,
  )
  return {
      instrument: jax.jit(make(instrument=instrument), donate_argnums=0)
      for instrument in (True, False)
  }

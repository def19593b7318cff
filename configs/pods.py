"""What the configs for pods share: published sizes, and how they are trained.

Not a run by itself: it names no tasks. See `multidomain.py`.
"""

from typing import Any

import ml_collections

from gradlens.configs import default

# A checkpoint on the Hugging Face hub, and its sizes: those are read from the
# checkpoint by a run, and from here by `gradlens.aot`, which loads nothing.
# What else a checkpoint's config says (the rope_scaling of Llama) changes no
# shape.
MODELS = dict(
    qwen2_5_7b=('Qwen/Qwen2.5-7B-Instruct', dict(
        model_type='qwen2', vocab_size=152_064, hidden_size=3584,
        intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, head_dim=128, max_position_embeddings=32_768,
        rms_norm_eps=1e-6, rope_theta=1e6, initializer_range=0.02,
        tie_word_embeddings=False,
    )),
    qwen2_5_3b=('Qwen/Qwen2.5-3B-Instruct', dict(
        model_type='qwen2', vocab_size=151_936, hidden_size=2048,
        intermediate_size=11_008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=32_768,
        rms_norm_eps=1e-6, rope_theta=1e6, initializer_range=0.02,
        tie_word_embeddings=True,
    )),
    llama3_2_3b=('meta-llama/Llama-3.2-3B-Instruct', dict(
        model_type='llama', vocab_size=128_256, hidden_size=3072,
        intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=131_072,
        rms_norm_eps=1e-5, rope_theta=5e5, initializer_range=0.02,
        tie_word_embeddings=True,
    )),
    qwen3_1_7b=('Qwen/Qwen3-1.7B', dict(
        model_type='qwen3', vocab_size=151_936, hidden_size=2048,
        intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960,
        rms_norm_eps=1e-6, rope_theta=1e6, initializer_range=0.02,
        tie_word_embeddings=True,
    )),
)


def get_config(
    tasks: dict[str, dict[str, str]], arg: str | None
) -> ml_collections.ConfigDict:
  """GRPO of a published model, by taps, on a mesh.

  Args:
    tasks: name to source, template and verifier.
    arg: `model=NAME` of `MODELS` and keys of the config, as in `toy.py`; or
      `tiny`, and keys.

  Raises:
    ValueError: no such model, or see `default.parse_arg`.
  """
  parts = [part for part in (arg or '').split(',') if part]
  names = [p.removeprefix('model=') for p in parts if p.startswith('model=')]
  [name] = names[-1:] or ['qwen2_5_7b']
  if name not in MODELS:
    raise ValueError(
        f'config argument model={name}: choose one of {", ".join(MODELS)}'
    )
  c = default.get_config()
  c.tasks = ml_collections.ConfigDict({
      task: dict(pattern='', **spec) for task, spec in tasks.items()
  })
  c.correction.apply = 'lagged'
  c.compute.remat = 'full'
  if 'tiny' in parts:
    _tiny(c)
  else:
    _published(c, *MODELS[name])
  default.parse_arg(c, ','.join(
      part for part in parts if not part.startswith('model=') and part != 'tiny'
  ))
  c.lock()
  return c


def _published(
    c: ml_collections.ConfigDict, hub: str, sizes: dict[str, Any]
) -> None:
  c.init_from = hub
  c.model.update(sizes)
  c.prompt.update(chat=True, drop_long=True)
  c.compute.dtype = 'bfloat16'
  # Eight rows, those of four tasks, each with a part of the slice.
  c.mesh.update(task=8, fsdp=-1, tensor=1)
  c.num_steps = 500
  c.prompts_per_task = 16
  c.num_completions = 8
  c.rollout.update(max_prompt_tokens=1024, max_new_tokens=3072)
  c.data.update(num_train=100_000, num_heldout=256)
  # Of all tests of a program together, and some problems have a hundred.
  c.verifier.update(cpu_seconds=10.0, wall_seconds=60.0)
  c.optimizer.learning_rate = 1e-6
  c.evaluate.update(every=50, num_completions=1, batch_size=16)
  c.checkpoint.every = 50


def _tiny(c: ml_collections.ConfigDict) -> None:
  """A random model of bytes, and records that are made up."""
  for spec in c.tasks.values():
    joined = '&' if '?' in spec.source else '?'
    spec.source += f'{joined}files=made_up'
    spec.verifier = f'0.9*{spec.verifier}+0.1*format?pattern=(?s).*[a-m].*'
  c.model.update(
      hidden_size=32, intermediate_size=64, num_hidden_layers=2,
      num_attention_heads=2, num_key_value_heads=1, head_dim=16,
      max_position_embeddings=384,
  )
  c.num_steps = 4
  c.prompts_per_task = 4
  c.num_completions = 4
  c.rollout.update(max_prompt_tokens=320, max_new_tokens=24)
  c.data.update(num_train=100_000, num_heldout=16)
  c.evaluate.update(every=2, num_completions=2, batch_size=16)
  c.checkpoint.every = 2

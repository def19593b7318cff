"""Compile time by depth, and sampling beside transformers' `generate`.

    python -m benchmarks.models

Compiling: of the decomposed gradient of a decoder of 2 and of 28 layers, the
same widths. Sampling: the same weights, prompts and number of new tokens, in
turn, with 2 threads; tokens a second, and medians of ratios of neighbors.
"""

import dataclasses
import statistics
import tempfile
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import torch
from transformers import AutoModelForCausalLM

from benchmarks import decoder
import gradlens as gl
from gradlens import models, rollout

_PROMPTS = flags.DEFINE_integer('prompts', 8, 'Prompts.')
_COMPLETIONS = flags.DEFINE_integer('completions', 4, 'Of each prompt.')
_LENGTH = flags.DEFINE_integer('length', 16, 'Tokens of a prompt.')
_NEW = flags.DEFINE_integer('new', 32, 'Tokens of a completion.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.')


def compile_seconds(num_layers: int) -> float:
  """Of the gradient and all Gram matrices, from nothing to a program."""
  model, _ = decoder.build('small', 64)
  model = models.build(
      dataclasses.replace(model.config, num_hidden_layers=num_layers)
  )
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  rows = decoder.in_rows(decoder.random_batch(384, 8, 64), 4)
  probes = {
      name: gl.Probe(4, num_layers if name == 'layers' else None)
      for name in models.BLOCKS
  }
  step = jax.jit(gl.value_grad_gram(decoder.losses_fn(model)))
  start = time.perf_counter()
  step.lower(shapes, probes, *rows).compile()
  return time.perf_counter() - start


def print_compile_time() -> None:
  """A row for each depth."""
  print('| layers | compile seconds | |')
  print('|---|---:|---:|')
  seconds = {2: [], 28: []}
  for _ in range(3):
    for depth, own in seconds.items():
      jax.clear_caches()
      own.append(compile_seconds(depth))
  base = statistics.median(seconds[2])
  for depth, own in seconds.items():
    median = statistics.median(own)
    print(f'| {depth} | {median:.2f} | {median / base:.2f}x |', flush=True)


def print_sampling() -> None:
  """A row for each sampler."""
  torch.set_num_threads(2)
  model, params = decoder.build('medium', _LENGTH.value + _NEW.value)
  n, g = _PROMPTS.value, _COMPLETIONS.value
  prompts, _ = decoder.random_batch(model.config.vocab_size, n, _LENGTH.value)
  keys = rollout.request_keys(jax.random.key(0), (n, g))
  with tempfile.TemporaryDirectory() as folder:
    models.save(model, params, folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
  repeated = torch.tensor(prompts.tolist()).repeat_interleave(g, 0)

  def ours():
    jax.block_until_ready(rollout.generate(
        model, params, prompts, jnp.ones(prompts.shape, bool), keys,
        max_new_tokens=_NEW.value, temperature=1.0, stop_tokens=(),
    ))

  def generate():
    with torch.no_grad():
      theirs.generate(
          repeated, do_sample=True, top_k=0, max_new_tokens=_NEW.value,
          pad_token_id=0,
      )

  seconds = {ours: [], generate: []}
  for run in seconds:
    run()
  for _ in range(_REPEATS.value):
    for run, own in seconds.items():
      start = time.perf_counter()
      run()
      own.append(time.perf_counter() - start)
  print('\n| sampler | tokens a second | |')
  print('|---|---:|---:|')
  names = {ours: 'gradlens', generate: 'transformers `generate`'}
  for run, own in seconds.items():
    ratio = statistics.median(
        b / a for a, b in zip(own, seconds[generate], strict=True)
    )
    rate = n * g * _NEW.value / statistics.median(own)
    print(f'| {names[run]} | {rate:.0f} | {ratio:.2f}x |', flush=True)


def main(argv: list[str]) -> None:
  """Prints both tables."""
  del argv
  print_compile_time()
  print_sampling()


if __name__ == '__main__':
  app.run(main)

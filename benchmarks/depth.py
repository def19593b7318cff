"""How long a decoder of 2 and of 28 layers takes to compile.

    python -m benchmarks.depth

Its decomposed gradient, at the same widths: medians of three, caches cleared.
"""

import dataclasses
import statistics
import time

from absl import app
import jax

from benchmarks import decoder
import gradlens as gl
from gradlens import models


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


def main(argv: list[str]) -> None:
  """Prints a row for each depth."""
  del argv
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


if __name__ == '__main__':
  app.run(main)

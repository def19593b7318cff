"""What per-task gradients cost, in every way, beside the plain gradient.

    python -m benchmarks.instrument --sizes=medium --rows=4,8,32
    python -m benchmarks.instrument --torchjd=.venv-bench/bin/python ...

All compute one batch's gradient at the same parameters, in turn, so that
whatever else the machine does meets all. Ratios are medians of the ratios of
neighbors to the joint gradient of a rematerialized model. `joint again` is the
joint gradient a second time: how far two equal things lie apart.
"""

import signal
import statistics
import subprocess
import tempfile
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
from transformers import ByT5Tokenizer

from benchmarks import decoder, rounds
import gradlens as gl
from gradlens import models

_SIZES = flags.DEFINE_list('sizes', ['small', 'medium'], 'Of the decoder.')
_ROWS = flags.DEFINE_list('rows', ['4', '8', '32'], 'Numbers of rows.')
_SEQUENCES = flags.DEFINE_integer('sequences', 32, 'In the batch.')
_LENGTH = flags.DEFINE_integer('length', 512, 'Tokens of a sequence.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Rounds.')
_TORCHJD = flags.DEFINE_string(
    'torchjd', '', 'Python of an environment with gradlens[bench]; then TorchJD'
    ' takes its turns as well.'
)


def variants(
    model: models.Model, params: Any, batch: Any, num_rows: int
) -> dict[str, tuple[Any, tuple, int]]:
  """`{name: (function, arguments, calls)}`; twice the rows for comparison."""
  losses_fn = decoder.losses_fn(model)
  layers = model.config.num_hidden_layers
  rows = decoder.in_rows(batch, num_rows)

  def joint(params, tokens, advantages):
    return jax.grad(
        lambda p: losses_fn(p, None, tokens[None], advantages[None]).sum()
    )(params)

  def one_row(params, tokens, advantages):
    return losses_fn(params, None, tokens[None], advantages[None])[0]

  def stacked(params, *rows):
    grads_RxP = jax.vmap(jax.grad(one_row), (None, 0, 0))(params, *rows)
    summed = jax.tree.map(lambda a: jnp.tensordot(weights_R, a, 1), grads_RxP)
    return summed, gl.gram(grads_RxP)

  def tap(num_rows):
    probes = {
        name: gl.Probe(num_rows, layers if name == 'layers' else None)
        for name in models.BLOCKS
    }
    return lambda params, *rows: gl.value_grad_gram(losses_fn)(
        params, probes, *rows
    )

  weights_R = jnp.ones(num_rows)
  correction = gl.correct(
      gl.equalize_norms(), num_tasks=num_rows, apply='two_pass'
  )
  state = correction.init(params)
  two_pass = gl.value_and_grad_for(correction, losses_fn, blocks=models.blocks)
  first = jax.tree.map(lambda a: a[0], rows)
  found = {
      'joint': (joint, (params, *batch), 1),
      'joint again': (joint, (params, *batch), 1),
      'tap': (tap(num_rows), (params, *rows), 1),
  }
  if 2 * num_rows <= len(batch[0]):
    doubled = decoder.in_rows(batch, 2 * num_rows)
    found['tap, twice the rows'] = tap(2 * num_rows), (params, *doubled), 1
  return found | {
      'two_pass': (
          lambda params, *rows: two_pass(params, state, *rows),
          (params, *rows), 1,
      ),
      'stacked': (stacked, (params, *rows), 1),
      'separate passes': (jax.grad(one_row), (params, *first), num_rows),
  }


def compile_all(
    found: dict[str, tuple[Any, tuple, int]]
) -> tuple[dict[str, rounds.Run], dict[str, int]]:
  """What to call, and the bytes of scratch memory of each."""
  runs, scratch = {}, {}
  for name, (function, args, calls) in found.items():
    compiled = jax.jit(function).lower(*args).compile()
    scratch[name] = compiled.memory_analysis().temp_size_in_bytes

    def run(compiled=compiled, args=args, calls=calls):
      for _ in range(calls):
        out = compiled(*args)
      jax.block_until_ready(out)

    run()
    runs[name] = run
  return runs, scratch


class Killed(RuntimeError):
  """A process was, which is how Linux says that memory has run out."""


class Peer:
  """TorchJD in a process of its own, which steps when it is told to."""

  def __init__(
      self, python: str, model: models.Model, params: Any, batch: Any,
      num_rows: int,
  ) -> None:
    self._folder = tempfile.TemporaryDirectory()
    models.save(model, params, self._folder.name, ByT5Tokenizer())
    tokens, advantages = batch
    np.savez(
        f'{self._folder.name}/batch.npz', tokens=tokens, advantages=advantages
    )
    self._command = [
        python, 'benchmarks/torchjd_peer.py', self._folder.name, str(num_rows)
    ]
    self._start()

  def _start(self) -> None:
    self._process = subprocess.Popen(
        self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self.names = self._answer().split(',')
    self.losses = [float(x) for x in self._answer().split(',')]

  def _answer(self) -> str:
    line = self._process.stdout.readline().strip()
    if not line:
      if self._process.wait() == -signal.SIGKILL:
        raise Killed
      raise RuntimeError('the TorchJD process ended; its error is above')
    return line

  def run(self, name: str) -> None:
    """One step of a name."""
    print(name, file=self._process.stdin, flush=True)
    self._answer()

  def fits(self, name: str) -> bool:
    """Whether a step has memory enough; the process lives on either way."""
    try:
      self.run(name)
    except Killed:
      self._start()
      return False
    return True

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._folder.cleanup()


def measure(size: str, num_rows: int) -> None:
  """Prints the rows of the table for one size and one number of rows."""
  model, params = decoder.build(size, _LENGTH.value)
  batch = decoder.random_batch(
      model.config.vocab_size, _SEQUENCES.value, _LENGTH.value
  )
  runs, scratch = compile_all(variants(model, params, batch, num_rows))
  base = dict.fromkeys(runs, 'joint')
  peer, outgrown = None, []
  if _TORCHJD.value:
    peer = Peer(_TORCHJD.value, model, params, batch, num_rows)
    own = decoder.losses_fn(model)(
        params, None, *decoder.in_rows(batch, num_rows)
    )
    if not jnp.allclose(own, jnp.array(peer.losses), rtol=1e-3, atol=1e-3):
      raise RuntimeError(f'TorchJD computes {peer.losses}, not {own}')
    for name in peer.names:
      if peer.fits(name):
        runs[name] = lambda name=name: peer.run(name)
        base[name] = 'torch joint'
      else:
        outgrown.append(name)
  seconds = rounds.interleave(runs, _REPEATS.value)
  if peer:
    peer.close()
  count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
  label = f'{size}, {count:.1f}M | {num_rows}'
  for name, times in seconds.items():
    ratio = rounds.median_ratio(times, seconds[base[name]])
    memory = 'n/a | n/a'
    if name in scratch:
      relative = scratch[name] / scratch['joint']
      memory = f'{scratch[name] / 1e6:.0f} | {relative:.2f}x'
    cells = f'{statistics.median(times):.2f} | {ratio:.2f}x | {memory}'
    print(f'| {label} | {name} | {cells} |', flush=True)
  for name in outgrown:
    print(f'| {label} | {name} | out of memory | | | |', flush=True)


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  kind = jax.devices()[0].device_kind
  print(
      f'{kind}, jax {jax.__version__}; {_SEQUENCES.value} sequences of'
      f' {_LENGTH.value} tokens, {_REPEATS.value} rounds\n'
  )
  print('| decoder | rows | | seconds | time | scratch MB | memory |')
  print('|---|---|---|---|---|---|---|')
  for size in _SIZES.value:
    for num_rows in map(int, _ROWS.value):
      measure(size, num_rows)


if __name__ == '__main__':
  app.run(main)

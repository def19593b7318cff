"""What a weighting costs, and whether TorchJD finds the same.

    python -m benchmarks.weightings             # milliseconds, as a table
    python -m benchmarks.weightings --compare   # 200 random matrices

Both print Markdown. In an environment with gradlens[bench]; times on an idle
machine. A time is the median of single calls, gradlens's inside jit on the
default device, with the Gram matrix given.
"""

from collections.abc import Callable
import importlib.util
import statistics
import sys
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

_COMPARE = flags.DEFINE_bool(
    'compare', False, 'Compare updates with those of TorchJD, instead of times.'
)
_REPEATS = flags.DEFINE_integer('repeats', 50, 'Calls of each method.')
_TASKS = flags.DEFINE_list('tasks', ['2', '8', '32', '64'], 'Values of K.')
_MATRICES = flags.DEFINE_integer('matrices', 200, 'Random ones, to compare.')

OURS = {
    'total': gl.total,
    'mean': gl.mean,
    'random_weights': gl.random_weights,
    'equalize_norms': gl.equalize_norms,
    'imtl_g': gl.imtl_g,
    'mgda': gl.mgda,
    'cagrad': gl.cagrad,
    'pcgrad': gl.pcgrad,
    'upgrad': gl.upgrad,
    'upgrad(reg_eps=1e-4)': lambda: gl.upgrad(reg_eps=1e-4),
    'dual_proj': gl.dual_proj,
    'dual_proj(reg_eps=1e-4)': lambda: gl.dual_proj(reg_eps=1e-4),
    'aligned_mtl': gl.aligned_mtl,
    'nash_mtl': gl.nash_mtl,
    'fairgrad': gl.fairgrad,
    'conflict_free': gl.conflict_free,
    'gradvac': gl.gradvac,
    'gradnorm': gl.gradnorm,
    'modo': gl.modo,
    'sdmgrad': gl.sdmgrad,
    'mt_grpo': gl.mt_grpo,
    'famo': gl.famo,
    'uncertainty_weighting': gl.uncertainty_weighting,
    'dwa': gl.dwa,
    'stch': gl.stch,
    'krum': gl.krum,
    'pcd': gl.pcd,
}
# Their updates are a matter of chance, or of tasks whose order is drawn.
RANDOM = ('random_weights', 'pcgrad', 'gradvac')
# Weights of the two are not comparable: theirs stops early, or breaks ties.
BY_OBJECTIVE = ('mgda',)


def torchjds(num_tasks: int) -> dict[str, tuple[Callable, bool]]:
  """TorchJD's methods by our names, and whether each is given the rows."""
  from torchjd import aggregation as theirs

  return {
      'total': (theirs.SumWeighting(), False),
      'mean': (theirs.MeanWeighting(), False),
      'random_weights': (theirs.RandomWeighting(), False),
      'imtl_g': (theirs.IMTLGWeighting(), False),
      'mgda': (theirs.MGDAWeighting(), False),
      'cagrad': (theirs.CAGradWeighting(c=0.5), False),
      'pcgrad': (theirs.PCGradWeighting(), False),
      'upgrad(reg_eps=1e-4)': (theirs.UPGradWeighting(), False),
      'dual_proj(reg_eps=1e-4)': (theirs.DualProjWeighting(), False),
      'aligned_mtl': (theirs.AlignedMTLWeighting(), False),
      'nash_mtl': (theirs.NashMTL(n_tasks=num_tasks), True),
      'fairgrad': (theirs.FairGradWeighting(alpha=1.0), False),
      'conflict_free': (theirs.ConFIG(), True),
      'gradvac': (theirs.GradVacWeighting(beta=0.01), False),
      'modo': (theirs.MoDoWeighting(), False),
      'sdmgrad': (theirs.SDMGradWeighting(), False),
      'pcd': (theirs.PCDWeighting(), False),
  }


def extras(gram_KxK: jax.Array) -> dict[str, jax.Array]:
  """All that a weighting may ask for."""
  levels_K = jnp.linspace(0.1, 0.9, len(gram_KxK))
  return dict(
      losses_K=1 - levels_K, rewards_K=levels_K, gram_cross_KxK=gram_KxK
  )


def median_ms(call: Callable[[], Any], repeats: int) -> float:
  """Of single calls, after two that are not counted."""
  times = []
  for i in range(repeats + 2):
    start = time.perf_counter()
    call()
    if i > 1:
      times.append(time.perf_counter() - start)
  return 1e3 * statistics.median(times)


def our_time(name: str, rows: np.ndarray, repeats: int) -> float:
  """Milliseconds of one update."""
  weighting = OURS[name]()
  gram_KxK = gl.gram(jnp.asarray(rows, jnp.float32))
  state, own = weighting.init(len(rows)), extras(gram_KxK)
  step = jax.jit(weighting.update)
  return median_ms(
      lambda: jax.block_until_ready(step(gram_KxK, state, **own)), repeats
  )


def their_time(name: str, rows: np.ndarray, repeats: int) -> float | None:
  """Milliseconds of TorchJD; None where it lacks the method."""
  import torch

  method, takes_rows = torchjds(len(rows)).get(name, (None, False))
  if method is None:
    return None
  rows = torch.tensor(rows, dtype=torch.float32)
  given = rows if takes_rows else rows @ rows.T
  return median_ms(lambda: method(given), repeats)


def print_times(tasks: list[int], repeats: int) -> None:
  """A row for each method, ours and TorchJD's time for every K."""
  print('| ms | ' + ' | '.join(f'K = {k} | TorchJD' for k in tasks) + ' |')
  print('|---|' + '---:|---:|' * len(tasks))
  rng = np.random.default_rng(0)
  matrices = [rng.normal(size=(k, 2 * k)) for k in tasks]
  for name in OURS:
    cells = []
    for rows in matrices:
      # Slow ones say it at once.
      theirs = their_time(name, rows, 1)
      if theirs is not None:
        rounds = int(np.clip(1000 / max(theirs, 1e-3), 3, repeats))
        theirs = their_time(name, rows, rounds)
      ours = our_time(name, rows, repeats)
      cells += [f'{ours:.3f}', '' if theirs is None else f'{theirs:.3f}']
    print(f'| `{name}` | ' + ' | '.join(cells) + ' |', flush=True)


def random_matrices(count: int) -> list[np.ndarray]:
  """Two to sixteen rows, of every rank."""
  found = []
  for seed in range(count):
    rng = np.random.default_rng(seed)
    num_tasks = rng.choice([2, 3, 5, 9, 16])
    rank = rng.integers(1, num_tasks + 1)
    found.append(
        rng.normal(size=(num_tasks, rank)) @ rng.normal(size=(rank, 40))
    )
  return found


def torchjds_update(name: str, rows: np.ndarray) -> np.ndarray:
  """In float64."""
  import torch

  method, takes_rows = torchjds(len(rows))[name]
  matrix = torch.tensor(rows)
  theirs = method(matrix if takes_rows else matrix @ matrix.T).numpy()
  return theirs if takes_rows else theirs @ rows


def errors(
    name: str, matrices: list[np.ndarray], updates: list[np.ndarray],
    dtype: type,
) -> dict[str, list[float]]:
  """Of updates that are not 0, by whether rows are independent; and of zeros.

  Relative to the length of TorchJD's update. One that is shorter than 1e-3 of
  the rows' lengths together counts as 0: its error is in units of these.

  Args:
    name: of the method.
    matrices: rows, in float64.
    updates: TorchJD's, one for each matrix.
    dtype: of our Gram matrices.
  """
  weighting = OURS[name]()
  step = jax.jit(
      lambda gram_KxK, own: weighting.update(
          gram_KxK, weighting.init(len(gram_KxK)), **own
      )[0]
  )
  found = {'independent': [], 'dependent': [], 'zero': []}
  for rows, theirs in zip(matrices, updates, strict=True):
    given = jnp.asarray(rows, dtype)
    gram_KxK = given @ given.T if dtype is np.float64 else gl.gram(given)
    ours = np.asarray(step(gram_KxK, extras(gram_KxK)), np.float64) @ rows
    length = np.linalg.norm(theirs)
    whole = np.linalg.norm(rows, axis=1).sum()
    error = np.linalg.norm(ours - theirs)
    if name in BY_OBJECTIVE:
      # Above 0 where ours is the longer, and the worse.
      error = np.linalg.norm(ours) - length
    if length < 1e-3 * whole:
      found['zero'].append(error / whole)
    else:
      full = np.linalg.matrix_rank(rows, tol=1e-5 * whole) == len(rows)
      kind = 'independent' if full else 'dependent'
      found[kind].append(error / length)
  return found


def print_errors(count: int) -> None:
  """The worst errors of every method that TorchJD has."""
  kinds = ('independent', 'dependent', 'zero')
  print(f'| worst of {count} | float64: ' + ' | '.join(kinds), end='')
  print(' | float32: ' + ' | '.join(kinds) + ' |')
  print('|---|' + '---:|' * 6)
  matrices = random_matrices(count)
  for name in torchjds(2):
    if name in RANDOM:
      continue
    updates = [torchjds_update(name, rows) for rows in matrices]
    cells = []
    for dtype in (np.float64, np.float32):
      with jax.enable_x64(dtype is np.float64):
        found = errors(name, matrices, updates, dtype)
      cells += [
          f'{max(values):.1e} ({len(values)})' if values else '(0)'
          for values in found.values()
      ]
    print(f'| `{name}` | ' + ' | '.join(cells) + ' |', flush=True)


def main(argv: list[str]) -> None:
  """Prints one of the tables."""
  del argv
  if importlib.util.find_spec('torchjd') is None:
    sys.exit(
        'TorchJD is not installed: pip install -e ".[bench]" in an environment '
        'of its own.'
    )
  if _COMPARE.value:
    print_errors(_MATRICES.value)
  else:
    print_times([int(k) for k in _TASKS.value], _REPEATS.value)


if __name__ == '__main__':
  app.run(main)

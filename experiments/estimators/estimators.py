"""Estimates of squared norms from the rows of a step, and of many steps.

K tasks, T steps, S rows of a task in a step; `gram` is `[K, T, S, K, T, S]` of
the rows' contributions to the loss of all steps together.
"""

from typing import NamedTuple

import numpy as np

import gradlens as gl

DECAY = 0.9  # of the running mean


class Rows(NamedTuple):
  """What was saved of the rows.

  Attributes:
    names: of the tasks.
    blocks: per block, `[K, T, S, K, T, S]`.
    sketches: per size, the same, estimated.
  """

  names: list[str]
  blocks: dict[str, np.ndarray]
  sketches: dict[int, np.ndarray]

  @property
  def whole(self) -> np.ndarray:
    """Of all parameters."""
    return sum(self.blocks.values())


def load(path: str, rows_of_step: int) -> Rows:
  """Reads what `measure` wrote, in units of one step's contributions."""
  with np.load(path) as saved:
    names, steps = saved['names'].tolist(), int(saved['steps'])
    shape = (len(names), steps, rows_of_step) * 2
    # A row is a part of all prompts; in a step, of that step's.
    blocks = {
        key.removeprefix('block_'): saved[key].reshape(shape) * steps**2
        for key in saved.files if key.startswith('block_')
    }
    sketches = {
        int(key.removeprefix('sketch_')):
            (saved[key] @ saved[key].T).reshape(shape) * steps**2
        for key in saved.files if key.startswith('sketch_')
    }
  return Rows(names, blocks, sketches)


def own(gram: np.ndarray) -> np.ndarray:
  """Of each task with itself: `[K, T, S, T, S]`."""
  return np.einsum('ktskuv->ktsuv', gram)


def truth(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Squared norms by all pairs of different rows, with 95% intervals: `[K]`.

  The jackknife leaves out steps.
  """
  products_KxTxSxTxS = own(gram)
  steps_T = np.arange(products_KxTxSxTxS.shape[1])

  def over(steps):
    kept = products_KxTxSxTxS[:, steps][:, :, :, steps]
    k, t, s, _, _ = kept.shape
    flat = kept.reshape(k, t * s, t * s)
    pairs_K = flat.sum((1, 2)) - np.einsum('kii->k', flat)
    # A step's gradient is the sum of its S rows.
    return pairs_K * s**2 / (t * s * (t * s - 1))

  return gl.jackknife(over, steps_T)


def of_steps(gram: np.ndarray) -> dict[str, np.ndarray]:
  """Estimates from every step's own rows: `[T, K]` each.

  naive: the squared norm of the step's gradient.
  halves: twice the products of two halves of the prompts (S = 2).
  pairs: all pairs of different rows (a U-statistic).
  ema: of `pairs`, smoothed over steps and corrected for its start.
  """
  rows_KxTxSxS = np.einsum('ktsktv->ktsv', gram)
  s = rows_KxTxSxS.shape[-1]
  naive_KxT = rows_KxTxSxS.sum((2, 3))
  halves = rows_KxTxSxS.reshape(*rows_KxTxSxS.shape[:2], 2, s // 2, 2, s // 2)
  halves = halves.sum((3, 5))
  pairs_KxT = (naive_KxT - np.einsum('ktss->kt', rows_KxTxSxS)) * s / (s - 1)
  return dict(
      naive=naive_KxT.T, halves=2 * (halves[..., 0, 1] + halves[..., 1, 0]).T,
      pairs=pairs_KxT.T, ema=ema(pairs_KxT.T, DECAY),
  )


def ema(values_TxK: np.ndarray, decay: float) -> np.ndarray:
  """A running mean with the bias of its start taken out."""
  mean, found = np.zeros(values_TxK.shape[1]), []
  for t, values_K in enumerate(values_TxK, 1):
    mean = decay * mean + (1 - decay) * values_K
    found.append(mean / (1 - decay**t))
  return np.array(found)


class Ratios(NamedTuple):
  """How much louder the loudest task is than the quietest, by four readings.

  Attributes:
    truth: of all pairs of rows.
    of_steps: the mean over steps of each step's own largest ratio, of naive
      norms: unbiased ones may be negative, and have no ratio.
    averaged: of norms averaged over steps.
    apart: of the tasks that are loudest and quietest in one half of the steps,
      measured in the other.
  """

  truth: float
  of_steps: float
  averaged: float
  apart: float


def ratios(gram: np.ndarray) -> Ratios:
  """Of the first and the second half of the steps in turn, where they are."""
  true_K, _, _ = truth(gram)
  found = of_steps(gram)
  naive_TxK, pairs_TxK = found['naive'], found['pairs']
  half = len(pairs_TxK) // 2
  apart = []
  for chosen, seen in (
      (pairs_TxK[:half], pairs_TxK[half:]), (pairs_TxK[half:], pairs_TxK[:half])
  ):
    loud, quiet = chosen.mean(0).argmax(), chosen.mean(0).argmin()
    apart.append(seen.mean(0)[loud] / seen.mean(0)[quiet])
  mean_K = pairs_TxK.mean(0)
  return Ratios(
      float(true_K.max() / true_K.min()),
      float((naive_TxK.max(1) / naive_TxK.min(1)).mean()),
      float(mean_K.max() / mean_K.min()), float(np.mean(apart)),
  )


def sketch_errors(rows: Rows) -> dict[int, np.ndarray]:
  """Root mean squared error of a sketch's norms of steps, relative: `[K]`.

  Beside the exact naive norms of the same steps.
  """
  exact_TxK = of_steps(rows.whole)['naive']
  return {
      size: np.sqrt(np.mean(
          (of_steps(gram)['naive'] / exact_TxK - 1) ** 2, axis=0
      )) for size, gram in rows.sketches.items()
  }

"""Evaluation: held-out rewards of every task, prompt by prompt."""

from collections.abc import Callable, Sequence
import io
import json
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from gradlens import hosts
from gradlens.experience import Collect

FOLDER = 'evals'
_SHOWN = 8  # sample completions kept of each task


class Evaluation(NamedTuple):
  """Rewards of held-out prompts under one policy.

  Attributes:
    rewards: per task, float32 `[N]`: the mean over a prompt's completions.
    samples: per task, the first prompts with one completion each, as JSON.
  """

  rewards: dict[str, np.ndarray]
  samples: dict[str, str]


def evaluate(
    collect: Collect,
    params: Any,
    tasks: Sequence[Any],
    key: jax.Array,
    *,
    batch_size: int,
    decode: Callable[[np.ndarray, np.ndarray], str],
) -> Evaluation:
  """Samples completions of every task's held-out prompts and scores them.

  Args:
    collect: the sampler; its temperature and completions a prompt hold.
    params: the policy's parameters.
    tasks: each with the same number of held-out records.
    key: the same key at every evaluation of a run pairs them prompt by
      prompt, sample by sample.
    batch_size: prompts of each task at once.
    decode: tokens and mask of a completion to its text.
  """
  rewards, samples = [], [[] for _ in tasks]
  for start in range(0, len(tasks[0].heldout), batch_size):
    records = [task.heldout[start : start + batch_size] for task in tasks]
    sampled = collect(params, records, jax.random.fold_in(key, start))
    rewards_KxBxG = np.asarray(sampled.batch.rewards_KxBxG)
    rewards.append(rewards_KxBxG.mean(-1))
    missing = _SHOWN - len(samples[0])
    if missing <= 0:
      continue
    tokens_KxBxC, mask_KxBxC = hosts.whole([
        a[:, :missing, 0]
        for a in (sampled.batch.tokens_KxBxGxC, sampled.batch.mask_KxBxGxC)
    ])
    for k, rows in enumerate(records):
      samples[k] += [
          dict(prompt=record.prompt,
               completion=decode(tokens_KxBxC[k, b], mask_KxBxC[k, b]),
               answer=record.answer, reward=float(rewards_KxBxG[k, b, 0]))
          for b, record in enumerate(rows[:missing])
      ]
  rewards_KxN = np.concatenate(rewards, axis=1)
  names = [task.name for task in tasks]
  return Evaluation(
      dict(zip(names, rewards_KxN, strict=True)),
      dict(zip(names, map(json.dumps, samples), strict=True)),
  )


def write(workdir: epath.Path, step: int, result: Evaluation) -> None:
  """Keeps the rewards of each prompt, for paired differences."""
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  temporary = folder / f'{step:08d}.tmp'
  content = io.BytesIO()
  np.savez(content, **result.rewards)
  temporary.write_bytes(content.getvalue())
  temporary.replace(folder / f'{step:08d}.npz')

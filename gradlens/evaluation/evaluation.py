"""Evaluation: held-out rewards of every task, completion by completion."""

from collections.abc import Callable, Sequence
import io
import json
import logging
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from gradlens import hosts
from gradlens.experience import Collect
from gradlens.tasks import Late
from gradlens.workdir.record import Writers

_log = logging.getLogger(__name__)

FOLDER = 'evals'
_SHOWN = 8  # sample completions kept of each task


class Evaluation(NamedTuple):
  """Rewards of held-out prompts under one policy.

  Attributes:
    rewards: per task, float32 `[N, G]`: N prompts, G completions of each.
    samples: per task, the first prompts with one completion each, its reward
      and the verifier's reason, as JSON.
  """

  rewards: dict[str, np.ndarray]
  samples: dict[str, str]

  def means(self) -> dict[str, float]:
    """Mean reward of each task."""
    return {name: float(r.mean()) for name, r in self.rewards.items()}

  def scores(self) -> dict[str, float]:
    """To choose a checkpoint by: 'heldout/TASK', and 'heldout', their mean."""
    means = self.means()
    own = {f'heldout/{name}': mean for name, mean in means.items()}
    return {**own, 'heldout': float(np.mean(list(means.values())))}


def key(seed: int) -> jax.Array:
  """Of all evaluations of a run, and of those of its checkpoints."""
  return jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))[1]


def evaluate(
    collect: Collect,
    params: Any,
    tasks: Sequence[Any],
    key: jax.Array,
    *,
    batch_size: int,
    decode: Callable[[np.ndarray, np.ndarray], str],
    score: Callable[[Sequence[Any]], Sequence[Any]],
) -> Evaluation:
  """Samples completions of every task's held-out prompts and scores them.

  A task with fewer prompts than another is given its last ones again, which
  are not counted: all tasks are sampled together.

  Args:
    collect: the sampler; its temperature and completions a prompt hold.
    params: the policy's parameters.
    tasks: with their held-out records.
    key: the same key at every evaluation of a run pairs them prompt by
      prompt, sample by sample.
    batch_size: prompts of each task at once.
    decode: tokens and mask of a completion to its text.
    score: that of the verifiers: it gives the reasons of what is shown, and is
      asked again for these few, since of a batch only rewards are kept.
  """
  rewards, samples = [], [[] for _ in tasks]
  longest = max(len(task.heldout) for task in tasks)
  for start in range(0, longest, batch_size):
    stop = min(start + batch_size, longest)
    own = [(task.heldout, len(task.heldout) - 1) for task in tasks]
    records = [
        [heldout[min(i, last)] for i in range(start, stop)]
        for heldout, last in own
    ]
    sampled = collect(params, records, jax.random.fold_in(key, start))
    rewards_KxBxG = np.asarray(sampled.batch.rewards_KxBxG)
    rewards.append(rewards_KxBxG)
    missing = _SHOWN - start
    if missing <= 0:
      continue
    tokens_KxBxC, mask_KxBxC = hosts.whole([
        a[:, :missing, 0]
        for a in (sampled.batch.tokens_KxBxGxC, sampled.batch.mask_KxBxGxC)
    ])
    for k, task in enumerate(tasks):
      shown = [
          (task.name, decode(tokens_KxBxC[k, b], mask_KxBxC[k, b]), record)
          for b, record in enumerate(task.heldout[start:stop][:missing])
      ]
      samples[k] += [
          dict(prompt=record.prompt, completion=completion,
               answer=record.answer, reward=float(rewards_KxBxG[k, b, 0]),
               reason=_reason(result))
          for b, ((_, completion, record), result) in enumerate(
              zip(shown, score(shown), strict=True))
      ]
  rewards_KxNxG = np.concatenate(rewards, axis=1)
  names = [task.name for task in tasks]
  return Evaluation(
      {task.name: own_NxG[: len(task.heldout)]
       for task, own_NxG in zip(tasks, rewards_KxNxG, strict=True)},
      dict(zip(names, map(json.dumps, samples), strict=True)),
  )


def _reason(result: Any) -> str:
  return result.reason or ('' if result.status == 'ok' else result.status)


class Recorded(NamedTuple):
  """Evaluations that are written down as they are made.

  Attributes:
    evaluate: `evaluate`, of a policy.
    workdir: of the run.
    out: the run's writers.
    late: is told whose completions are scored next.
  """

  evaluate: Callable[..., Evaluation]
  workdir: epath.Path
  out: Writers
  late: Late

  def __call__(self, step: int, policy: Any) -> dict[str, float]:
    """Scores of the policy after so many steps."""
    self.late.begin(f'evaluation {step}')
    result = self.evaluate(params=policy)
    if hosts.first():
      write(self.workdir, step, result)
      means = result.means()
      self.out.scalars(step, {f'heldout/{n}': m for n, m in means.items()})
      self.out.texts(
          step, {f'samples/{n}': s for n, s in result.samples.items()}
      )
      _log.info('step %d, held-out reward: %s', step, ', '.join(
          f'{name} {mean:.3f}' for name, mean in means.items()))
    return result.scores()


def write(workdir: epath.Path, step: int, result: Evaluation) -> None:
  """Keeps the rewards of each completion, for paired differences."""
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  temporary = folder / f'{step:08d}.tmp'
  content = io.BytesIO()
  np.savez(content, **result.rewards)
  temporary.write_bytes(content.getvalue())
  temporary.replace(folder / f'{step:08d}.npz')

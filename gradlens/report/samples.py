"""Sample completions, before, during and after each run."""

from collections.abc import Sequence
import json
from typing import Any

from gradlens.report import history, markup

_MAX_TEXT = 4000


class Texts:
  """Texts by number: a prompt stands once, however many complete it."""

  def __init__(self):
    self.all, self._numbers = [], {}

  def __call__(self, text: object) -> int:
    text = markup.visible(text)
    more = len(text) - _MAX_TEXT
    if more > 0:
      text = f'{text[:_MAX_TEXT]}… ({more} more characters)'
    number = self._numbers.setdefault(text, len(self.all))
    if number == len(self.all):
      self.all.append(text)
    return number


def collect(
    runs: Sequence[history.Run], tasks: Sequence[str],
) -> dict[str, Any]:
  """Samples of the first, the middle and the last evaluation of every run.

  Returns:
    `texts`, and `rows` of run, task, step, prompt, completion, reference and
    reason, the last four as numbers of texts, and reward.
  """
  texts, rows = Texts(), []
  for r, run in enumerate(runs):
    for task in run.tasks:
      by_step = run.texts.get(f'samples/{task}', {})
      steps = sorted(by_step)
      chosen = {steps[i] for i in (0, len(steps) // 2, -1)} if steps else set()
      for step in sorted(chosen):
        rows += [
            [r, tasks.index(task), step, *map(texts, words), reward]
            for *words, reward in _parse(run, task, step, by_step[step])]
  return {'texts': texts.all, 'rows': rows}


def _parse(
    run: history.Run, task: str, step: int, text: str,
) -> list[tuple[str, str, str, str, float]]:
  """Prompt, completion, reference, reason and reward of every sample."""
  try:
    return [
        # Runs of earlier versions have no reasons.
        (sample['prompt'], sample['completion'], sample['answer'],
         sample.get('reason', ''), float(sample['reward']))
        for sample in json.loads(text)]
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    raise ValueError(
        f'{run.workdir}/metrics.jsonl: samples/{task} of step {step} must be '
        'a JSON list of prompt, completion, answer and reward, not '
        f'{text[:60]!r} ({e!r}).') from e

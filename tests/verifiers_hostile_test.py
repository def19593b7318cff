"""No verifier rewards, or is harmed by, what a model might try on it."""

import pathlib

from absl.testing import absltest, parameterized
import hostile
import pytest

from gradlens import tasks
from gradlens.tasks import verifiers

THOUGHT = 'format?pattern=' + verifiers.quote(
    r'(?s)<think>.+</think>\s*<answer>.+</answer>')
# By the verifier's spec: a record, and a completion that is right.
RECORDS = {
    'exact': (tasks.Record('', '24', {}), '24'),
    'numeric': (tasks.Record('', '24', {}), r'\boxed{24.0}'),
    'math': (tasks.Record('', '24', {}), r'\boxed{6 \times 4}'),
    'choice': (
        tasks.Record('', 'B', {'choices': ['23', 'x', '25', 'y']}), '(B)'),
    'countdown': (
        tasks.Record('', '', {'numbers': [3, 8], 'target': 24}), '3 * 8'),
    THOUGHT: (
        tasks.Record('', '', {}), '<think>24</think>\n<answer>24</answer>'),
}
# What is right, or runs out of time, all the same.
AS_STATED = {
    # Within the tolerance.
    ('numeric', 'bomb_long_decimal'): (1.0, 'ok'),
}


class HostileTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self._tasks = [
        tasks.Task(spec, [], [], verifiers.parse(spec)) for spec in RECORDS]

  @pytest.mark.slow
  def test_hostile_completions_score_nothing(self):
    self.assertGreater(len(hostile.COMPLETIONS), 25)
    self._check(hostile.COMPLETIONS, AS_STATED)
    self.assertFalse(pathlib.Path('escaped').exists())

  @pytest.mark.slow
  def test_junk_scores_nothing(self):
    junk = dict(enumerate(hostile.junk(1000)))
    self.assertLen(set(junk.values()), 1000)
    self._check(junk, {})

  def _check(self, completions, as_stated):
    """Every completion by every verifier, one that is right between them."""
    with tasks.Verifier(
        self._tasks, cpu_seconds=3.0, wall_seconds=300.0
    ) as guard, self.assertNoLogs(level='WARNING'):
      for spec, (record, right) in RECORDS.items():
        items = [(spec, text, record) for text in completions.values()]
        results = guard.score([*items, (spec, right, record)])
        last = results.pop()
        self.assertEqual((last.score, last.status), (1.0, 'ok'), spec)
        for name, result in zip(completions, results, strict=True):
          expected = as_stated.get((spec, name), (0.0, 'ok'))
          self.assertEqual(
              (result.score, result.status), expected,
              (spec, name, result.reason),
          )


if __name__ == '__main__':
  absltest.main()

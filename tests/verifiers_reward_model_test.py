"""The learned reward: transformers' numbers, by way of the guard."""

import math
import pickle
import tempfile
from unittest import mock

from absl.testing import absltest
import hostile
from models_classifier_test import classifier
import pytest
import torch
from transformers import ByT5Tokenizer

from gradlens import tasks
from gradlens.tasks import verifiers
from gradlens.tasks.verifiers import reward_model

TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
            '{% endfor %}')
COMPLETIONS = ('', '7', 'no', 'x' * 30, '\ud800')


class RewardModelTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self._path = folder.name
    self._theirs = classifier('qwen3', 0, vocab_size=384)
    self._theirs.save_pretrained(self._path)
    self._tokenizer = ByT5Tokenizer()
    self._tokenizer.save_pretrained(self._path)

  def _expected(self, text, end='</s>'):
    ids = self._tokenizer.encode(text, add_special_tokens=False)
    ids += [self._tokenizer.eos_token_id] if end else []
    with torch.no_grad():
      return float(self._theirs(torch.tensor([ids])).logits.sigmoid()[0, 0])

  @pytest.mark.slow
  def test_scores_are_transformers_own(self):
    record = tasks.Record('3+4=', '', {})
    spec = f'reward_model?path={self._path}&max_tokens=32'
    task = tasks.Task('judged', [], [], verifiers.parse(spec))
    with tasks.Verifier([task], cpu_seconds=60.0, wall_seconds=300.0) as guard:
      *results, odd = guard.score(
          [('judged', text, record) for text in COMPLETIONS])
    expected = [self._expected(f'3+4={text}') for text in COMPLETIONS[:3]]
    for result, score in zip(results[:3], expected, strict=True):
      self.assertAlmostEqual(result.score, score, delta=1e-4)
      self.assertIn('reward', result.reason)
    self.assertGreater(max(expected) - min(expected), 1e-2)
    # 4 bytes of the prompt, 30 of the completion, and the end.
    self.assertEqual(
        results[3], tasks.Result(0.0, 'ok', '35 tokens, more than 32')
    )
    self.assertAlmostEqual(odd.score, self._expected('3+4=?'), delta=1e-4)

  @pytest.mark.slow
  def test_hostile_completions_score_between_0_and_1(self):
    # There is no right answer: of what fits the score is the classifier's.
    record = tasks.Record('3+4=', '24', {})
    spec = f'reward_model?path={self._path}&max_tokens=32'
    task = tasks.Task('judged', [], [], verifiers.parse(spec))
    junk = [*hostile.COMPLETIONS.values(), *hostile.junk(30)]
    self.assertGreater(len(hostile.COMPLETIONS), 25)
    with tasks.Verifier(
        [task], cpu_seconds=30.0, wall_seconds=300.0
    ) as guard, self.assertNoLogs(level='WARNING'):
      *results, last = guard.score(
          [('judged', text, record) for text in (*junk, '7')])
    for text, result in zip(junk, results, strict=True):
      self.assertEqual(result.status, 'ok', text[:80])
      # A byte is a token; half a character is a question mark.
      size = len(text.encode('utf-8', 'replace')) + 5
      if size > 32:
        self.assertEqual(result.score, 0, text[:80])
        self.assertEqual(result.reason, f'{size} tokens, more than 32')
      else:
        self.assertBetween(result.score, 1e-3, 1 - 1e-3, text)
    self.assertAlmostEqual(last.score, self._expected('3+4=7'), delta=1e-4)

  @pytest.mark.slow
  def test_numbers_of_any_size_are_scores(self):
    verify = verifiers.parse(f'reward_model?path={self._path}&max_tokens=32')
    scores = []
    for number in (-1e30, -800.0, 0.0, 800.0, 1e30):
      with mock.patch.object(
          reward_model, '_reader',
          lambda *unused, n=number: (self._tokenizer, lambda tokens: n),
      ):
        scores.append(verify('7', tasks.Record('', '', {})).score)
    self.assertEqual(scores, [0.0, 0.0, 0.5, 1.0, 1.0])

  @pytest.mark.slow
  def test_chat(self):
    spec = f'reward_model?path={self._path}&max_tokens=32&chat=true'
    with self.assertRaisesRegex(ValueError, 'has none'):
      verifiers.parse(spec)
    self._tokenizer.chat_template = TEMPLATE
    self._tokenizer.save_pretrained(self._path)
    verify = pickle.loads(pickle.dumps(verifiers.parse(spec)))
    score = verify('7', tasks.Record('3+4=', '', {}))
    expected = self._expected('<user>3+4=<assistant>7', end='')
    self.assertAlmostEqual(score.score, expected, delta=1e-4)
    self.assertAlmostEqual(
        float(score.reason.split()[1]), math.log(expected / (1 - expected)),
        delta=1e-2)

  def test_bad_input(self):
    for spec, message in (
        ('reward_model', 'path'), ('reward_model?path=nowhere', 'config.json'),
        (f'reward_model?path={self._path}&max_tokens=0', 'max_tokens=0'),
        (f'reward_model?path={self._path}&max_tokens=x', 'no int'),
    ):
      with self.assertRaisesRegex(ValueError, message):
        verifiers.parse(spec)


if __name__ == '__main__':
  absltest.main()

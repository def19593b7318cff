"""Losses and advantages are those of TRL 1.16.0, on what it was given.

The values are from `benchmarks/trl_losses.py`; `make trl-check` makes new ones.
"""

import json

from absl.testing import absltest, parameterized
import numpy as np
import trl_cases


class TrlTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.values = json.loads(trl_cases.VALUES.read_text())
    cls.differences = trl_cases.differences(cls.values)

  def numbers(self, name):
    found = self.values['losses'][name]
    return np.append(np.ravel(found['gradient']), found['loss'])

  @parameterized.parameters(*trl_cases.LOSSES)
  def test_losses_and_gradients(self, name):
    self.assertLess(self.differences[f'loss of {name}'], 1e-5)
    # The others would not do, but for one that is the same in one process.
    own = self.numbers(name)
    for other in trl_cases.LOSSES:
      if other != name and {name, other} != {'bnpo', 'dapo'}:
        difference = np.abs(self.numbers(other) - own).max()
        self.assertGreater(difference, 1e-4, other)

  @parameterized.parameters(*trl_cases.ADVANTAGES)
  def test_advantages(self, name):
    self.assertLess(self.differences[f'advantages of {name}'], 1e-5)
    self.assertGreater(
        np.abs(np.subtract(*self.values['advantages'].values())).max(), 0.1
    )

  def test_a_difference_is_seen(self):
    given = self.values['given'] | dict(
        old=np.asarray(self.values['given']['old']) + 1e-3
    )
    found = trl_cases.differences(self.values | dict(given=given))
    self.assertGreater(min(
        found[f'loss of {name}'] for name in trl_cases.LOSSES
    ), 1e-5)


if __name__ == '__main__':
  absltest.main()

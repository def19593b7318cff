"""Metrics: scalars against the gradients themselves.

The Gram matrices are made of known gradients; what is expected is computed
from those, as vectors, in float64.
"""

from absl.testing import absltest, parameterized
import numpy as np

from gradlens import experience
from gradlens.step import train_step
from gradlens.workdir import metrics

_NAMES = ('a', 'b', 'c')
K, S = 3, 2
_PROMPTS_K = np.full(K, S)  # one in each split
_FILLED_KXB = np.ones((K, S), bool)
_WEIGHTS_K = np.array([0.5, 2.0, 1.0])
_BY_LAYER = dict(
    embed=np.array([1.0, 0.5, 3.0]),
    layers=np.array([[2.0, 1.0, 0.25], [0.0, 1.0, 4.0]]),
)


def _rows():
  """`{block: [K, S, layers, N]}`; integers, so that products are exact."""
  rng = np.random.default_rng(0)
  sizes = dict(embed=(1, 9), layers=(2, 7))
  return {
      name: rng.integers(-3, 4, (K, S, *size)).astype(np.float64) + 1
      for name, size in sizes.items()
  }


def _gram(rows_KxSxLxN):
  stacked = rows_KxSxLxN.reshape(K * S, *rows_KxSxLxN.shape[2:])
  gram_LxRxR = np.einsum('rln,sln->lrs', stacked, stacked)
  return gram_LxRxR[0] if len(gram_LxRxR) == 1 else gram_LxRxR


def _measured(rows, **changes):
  values = dict(
      loss_R=np.arange(6.0), entropy_R=np.arange(6.0) ** 2,
      sampler_gap_R=np.arange(6.0) / 10,
      terms_R=dict(kl=np.arange(6.0) / 4, clip_fraction=np.ones(6)),
      shares_K=np.array([0.5, 0.25, 0.25]),
      advantages_KxBxG=np.array(
          [[[1.0, -1.0]] * S, [[3.0, -1.0]] * S, [[0.0, 0.0]] * S]
      ),
      grams={name: _gram(block) for name, block in rows.items()},
      weights=_WEIGHTS_K, skipped_K=np.zeros(K, int), update_norm=0.25,
      inner_R=np.array([-1.0, -2.0, 1.0, 0.0, -4.0, -2.0]),
  )
  return train_step.Measured(**(values | changes))


def _tasks(rows):
  """Every task's gradient, `[K, N]`, its splits added."""
  blocks = [block.sum(1).reshape(K, -1) for block in rows.values()]
  return np.concatenate(blocks, axis=1)


def _products_of_splits(block_KxSxLxN):
  """Twice one half times twice the other: no noise is multiplied by itself."""
  first, second = np.moveaxis(2 * block_KxSxLxN.reshape(K, S, -1), 1, 0)
  return np.sum(first * second, axis=1)


class MetricsTestCase(parameterized.TestCase):

  def assert_scalars(self, scalars, tag, values_K, names=_NAMES):
    got = [scalars[f'{tag}/{name}'] for name in names]
    np.testing.assert_allclose(got, values_K, rtol=1e-6, err_msg=tag)
    self.assertTrue(all(isinstance(value, float) for value in got))

  def assert_shares(self, scalars, weighted_KxN):
    """Each task's part of the update, along the update."""
    update = weighted_KxN.sum(0)
    want_K = weighted_KxN @ update / (update @ update)
    self.assert_scalars(scalars, 'share/after', want_K)
    self.assertAlmostEqual(want_K.sum(), 1.0)
    self.assertAlmostEqual(scalars['grad_norm'], np.linalg.norm(update), 5)


class GradientScalarsTest(MetricsTestCase):

  def test_norms(self):
    rows = _rows()
    scalars = metrics.gradient_scalars(
        _measured(rows), S, _NAMES, _PROMPTS_K
    )
    tasks_KxN = _tasks(rows)
    naive_K = np.sum(tasks_KxN**2, axis=1)
    unbiased_K = sum(map(_products_of_splits, rows.values()))
    self.assertGreater(np.abs(naive_K - unbiased_K).min(), 1)
    for kind, norm_sq_K in (('naive', naive_K), ('unbiased', unbiased_K)):
      self.assert_scalars(scalars, f'norm_sq/{kind}', norm_sq_K)
      self.assert_scalars(
          scalars, f'intrinsic_norm_sq/{kind}', norm_sq_K * [4, 16, 16]
      )
    for name, block in {
        'embed': rows['embed'], 'layers.00': rows['layers'][:, :, :1],
        'layers.01': rows['layers'][:, :, 1:],
    }.items():
      self.assert_scalars(
          scalars, f'layer_norm_sq/{name}', _products_of_splits(block)
      )
    for pair, i, j in (('a/b', 0, 1), ('a/c', 0, 2), ('b/c', 1, 2)):
      self.assertEqual(scalars[f'inner/{pair}'], tasks_KxN[i] @ tasks_KxN[j])

  def test_noise(self):
    rows = _rows()
    scalars = metrics.gradient_scalars(
        _measured(rows), S, _NAMES, _PROMPTS_K
    )
    # A sum of two halves varies as their difference does.
    noise_K = sum(
        np.sum((block[:, 0] - block[:, 1]) ** 2, axis=(1, 2))
        for block in rows.values()
    )
    unbiased_K = sum(map(_products_of_splits, rows.values()))
    self.assertGreater(unbiased_K.min(), 0)
    self.assert_scalars(scalars, 'noise_trace', noise_K)
    self.assert_scalars(scalars, 'snr', unbiased_K / noise_K)
    # Of S prompts, one in each split.
    self.assert_scalars(
        scalars, 'critical_batch_size', S * noise_K / unbiased_K
    )
    np.testing.assert_allclose(
        scalars['imbalance'], unbiased_K.max() / unbiased_K.min(), rtol=1e-6
    )
    # Of a task with more prompts in a batch it is as much larger.
    scalars = metrics.gradient_scalars(
        _measured(rows), S, _NAMES, np.array([S, 3 * S, 0])
    )
    critical_K = S * noise_K / unbiased_K
    self.assert_scalars(
        scalars, 'critical_batch_size', critical_K * [1, 3, 1]
    )

  def test_after_the_optimizer(self):
    # Rows' products -1 - 2, 1 + 0, -4 - 2: the joint loss falls by 8.
    scalars = metrics.gradient_scalars(
        _measured(_rows()), S, _NAMES, _PROMPTS_K
    )
    self.assert_scalars(scalars, 'gain/predicted', [3.0, -1.0, 6.0])
    self.assert_scalars(scalars, 'share/optimizer', [3 / 8, -1 / 8, 6 / 8])

  def test_shares_of_weights_for_the_whole(self):
    rows = _rows()
    scalars = metrics.gradient_scalars(
        _measured(rows), S, _NAMES, _PROMPTS_K
    )
    tasks_KxN = _tasks(rows)
    self.assert_shares(scalars, _WEIGHTS_K[:, None] * tasks_KxN)
    self.assert_scalars(scalars, 'weight', _WEIGHTS_K)
    total = tasks_KxN.sum(0)
    before_K = tasks_KxN @ total / (total @ total)
    self.assert_scalars(scalars, 'share/before', before_K)
    after_K = [scalars[f'share/after/{name}'] for name in _NAMES]
    self.assertGreater(np.abs(after_K - before_K).max(), 0.05)

  def test_shares_of_weights_by_layer(self):
    rows = _rows()
    measured = _measured(rows, weights=_BY_LAYER)
    scalars = metrics.gradient_scalars(
        measured, S, _NAMES, _PROMPTS_K
    )
    weighted = {
        'embed': _BY_LAYER['embed'][:, None, None, None] * rows['embed'],
        'layers': _BY_LAYER['layers'].T[:, None, :, None] * rows['layers'],
    }
    self.assert_shares(scalars, _tasks(weighted))
    self.assert_scalars(scalars, 'layer_weight/embed', [1.0, 0.5, 3.0])
    self.assert_scalars(scalars, 'layer_weight/layers', [1.0, 1.0, 2.125])
    self.assertNotIn('weight/a', scalars)

  def test_without_splits_there_is_no_unbiased_norm(self):
    rows = _rows()
    scalars = metrics.gradient_scalars(
        _measured(rows, weights=np.ones(6), skipped_K=np.zeros(6),
                  shares_K=np.full(6, 1 / 6)), 1, 'uvwxyz', np.ones(6, int),
    )
    needs_splits = ('unbiased', 'noise', 'snr', 'critical')
    self.assertEmpty([
        tag for tag in scalars if any(word in tag for word in needs_splits)
    ])
    embed = rows['embed'].reshape(6, -1)
    self.assert_scalars(
        scalars, 'layer_norm_sq/embed', np.sum(embed**2, axis=1), 'uvwxyz'
    )

  def test_a_task_without_tokens(self):
    rows = _rows()
    for block in rows.values():
      block[1] = 0.0
    measured = _measured(rows, shares_K=np.array([0.5, 0.0, 0.5]))
    scalars = metrics.gradient_scalars(
        measured, S, _NAMES, _PROMPTS_K
    )
    self.assertEqual(scalars['share/before/b'], 0.0)
    self.assertTrue(np.isnan(scalars['intrinsic_norm_sq/unbiased/b']))
    self.assertTrue(np.isfinite(scalars['intrinsic_norm_sq/unbiased/a']))

  def test_a_task_without_prompts_has_no_intrinsic_gradient(self):
    rows = _rows()
    for block in rows.values():
      block[1] = 0.0
    # With loss.normalize='task' it has a share all the same.
    measured = _measured(rows, shares_K=np.full(3, 1 / 3))
    scalars = metrics.gradient_scalars(
        measured, S, _NAMES, np.array([S, 0, S])
    )
    for kind in ('naive', 'unbiased'):
      tag = f'intrinsic_norm_sq/{kind}'
      self.assertTrue(np.isnan(scalars[f'{tag}/b']))
      self.assertAlmostEqual(
          scalars[f'{tag}/a'], 9 * scalars[f'norm_sq/{kind}/a'], 6
      )

  def test_where_every_task_is_skipped_none_is_the_loudest(self):
    rows = {name: np.nan * block for name, block in _rows().items()}
    measured = _measured(rows, skipped_K=np.ones(K, int))
    scalars = metrics.gradient_scalars(
        measured, S, _NAMES, _PROMPTS_K
    )
    self.assertNotIn('imbalance', scalars)

  def test_a_step_without_gradients_has_no_shares(self):
    rows = {name: 0 * block for name, block in _rows().items()}
    scalars = metrics.gradient_scalars(
        _measured(rows), S, _NAMES, _PROMPTS_K
    )
    self.assert_scalars(scalars, 'share/before', np.zeros(K))
    self.assert_scalars(scalars, 'share/after', np.zeros(K))
    self.assertEqual(scalars['grad_norm'], 0.0)

  def test_a_skipped_task_has_no_part_in_the_shares(self):
    rows = _rows()
    rows['layers'][1, 0, 0, 0] = np.nan
    weights_K = np.array([1.0, 0.0, 1.0])
    measured = _measured(
        rows, skipped_K=np.array([0, 1, 0]), weights=weights_K
    )
    scalars = metrics.gradient_scalars(
        measured, S, _NAMES, _PROMPTS_K
    )
    self.assert_scalars(scalars, 'skipped', [0, 1, 0])
    self.assertTrue(np.isnan(scalars['norm_sq/naive/b']))
    self.assertTrue(np.isfinite(scalars['norm_sq/unbiased/a']))
    norms = [scalars[f'norm_sq/unbiased/{name}'] for name in 'ac']
    np.testing.assert_allclose(
        scalars['imbalance'], max(norms) / min(norms), rtol=1e-6
    )
    kept_KxN = _tasks(rows)
    kept_KxN[1] = 0.0
    self.assert_shares(scalars, kept_KxN)
    before = [scalars[f'share/before/{name}'] for name in _NAMES]
    after = [scalars[f'share/after/{name}'] for name in _NAMES]
    self.assertEqual(before, after)


class StepScalarsTest(MetricsTestCase):

  def test_sampled(self):
    lengths = np.array([[[3, 1], [2, 2]], [[0, 1], [4, 4]]])
    rewards = np.array([[[1, 0], [1, 1]], [[0.5, 0.5], [0, 0]]], np.float32)
    truncated = np.array([[[1, 0], [0, 0]], [[0, 0], [1, 1]]], bool)
    scalars = metrics.sampled_scalars(
        experience.Sampled(
            None, np.ones((2, 2), bool),
            experience.Drawn(
                rewards, lengths, truncated,
                np.stack([rewards, truncated, 0 * rewards], -1),
                np.array([[False, True], [True, True]]),
            ), lengths + 1, None,
            np.array([2, 0]), np.array([0, 3]), np.array([0.5, 2.5]),
            np.array([4, 1]),
            np.array([0, 1]), dict(rollout=1.5),
        ),
        ('a', 'b'), [['right', 'long', 'none'], ['right']],
    )
    self.assertEqual(scalars, {
        'reward_part/a/right': 0.75, 'reward_part/a/long': 0.25,
        'reward_part/a/none': 0.0,
        'reward/a': 0.75, 'reward/b': 0.25, 'length/a': 2.0, 'length/b': 2.25,
        # Prompts' means 0.5 and 1, and 0.5 and 0.
        'reward_std/a': 0.25, 'reward_std/b': 0.25,
        'pass_rate/a': 0.75, 'pass_rate/b': 0.0,
        'truncated/a': 0.25, 'truncated/b': 0.5,
        'tokens/a': 12, 'tokens/b': 13, 'zero_advantage/a': 0.5,
        'zero_advantage/b': 1.0, 'verifier_errors/a': 2, 'verifier_errors/b': 0,
        'verifier_timeouts/a': 0, 'verifier_timeouts/b': 3,
        'prompts/a': 2, 'prompts/b': 2, 'prompt_share/a': 0.5,
        'prompt_share/b': 0.5, 'refilled/a': 4, 'refilled/b': 1,
        'unfilled/a': 0, 'unfilled/b': 1, 'seconds/rollout': 1.5,
        'seconds/verify/a': 0.5, 'seconds/verify/b': 2.5,
    })

  def test_sampled_with_places_without_a_prompt(self):
    # What stands there does not matter; b has no prompt at all.
    filled = np.array([[True, False, True], [False] * 3])
    rewards = np.array([[[1, 0], [0.3, 0.3], [1, 1]], [[1, 1]] * 3])
    lengths = np.where(filled[..., None], 2, 0) * np.ones((1, 1, 2), int)
    none_K = np.zeros(2, int)
    scalars = metrics.sampled_scalars(
        experience.Sampled(
            None, filled, experience.Drawn(
                rewards, lengths, lengths > 1, rewards[..., None],
                rewards.max(2) == rewards.min(2),
            ), lengths, None, *[none_K] * 5, {},
        ),
        ('a', 'b'), [['reward']] * 2,
    )
    self.assert_scalars(scalars, 'prompts', [2, 0], 'ab')
    self.assert_scalars(scalars, 'prompt_share', [1, 0], 'ab')
    self.assert_scalars(scalars, 'tokens', [8, 0], 'ab')
    for tag, value in dict(
        reward=0.75, reward_std=0.25, pass_rate=0.75, zero_advantage=0.5,
        length=2.0, truncated=1.0,
    ).items():
      self.assert_scalars(scalars, tag, [value, np.nan], 'ab')

  def test_step(self):
    measured = _measured(_rows())
    scalars = metrics.step_scalars(measured, S, _NAMES, _FILLED_KXB)
    self.assert_scalars(scalars, 'loss', [0 + 1, 2 + 3, 4 + 5])
    self.assert_scalars(scalars, 'entropy', [0.5, 6.5, 20.5])
    self.assert_scalars(scalars, 'sampler_gap', [0.05, 0.25, 0.45])
    self.assert_scalars(scalars, 'kl', [0.125, 0.625, 1.125])
    self.assert_scalars(scalars, 'abs_advantage', [1.0, 2.0, 0.0])
    self.assertEqual(scalars['update_norm'], 0.25)
    gradient = metrics.gradient_scalars(
        measured, S, _NAMES, _PROMPTS_K
    )
    self.assertContainsSubset(gradient.items(), scalars.items())

  def test_gradients_are_of_the_first_mini_batch(self):
    # The same Gram matrix, of all 2 S prompts or of the first S: the noise of
    # one prompt is half as large.
    filled = np.ones((K, 2 * S), bool)
    measured = _measured(_rows(), advantages_KxBxG=np.ones((K, 2 * S, 2)))
    whole = metrics.step_scalars(measured, S, _NAMES, filled)
    part = metrics.step_scalars(measured, S, _NAMES, filled, 2)
    for name in _NAMES:
      tag = f'critical_batch_size/{name}'
      self.assertAlmostEqual(part.pop(tag), whole.pop(tag) / 2)
    self.assertEqual(part, whole)

  def test_step_with_places_without_a_prompt(self):
    filled = np.array([[True, False], [True, True], [False, False]])
    scalars = metrics.step_scalars(_measured(_rows()), S, _NAMES, filled)
    self.assert_scalars(scalars, 'abs_advantage', [1.0, 2.0, np.nan])

  def test_a_plain_step_has_no_gradient_scalars(self):
    plain = _measured(_rows(), grams=None, weights=None, skipped_K=None)
    self.assertEqual(
        metrics.gradient_scalars(plain, S, _NAMES, _PROMPTS_K), {}
    )
    scalars = metrics.step_scalars(plain, S, _NAMES, _FILLED_KXB)
    tags = {tag.split('/')[0] for tag in scalars}
    self.assertEqual(
        tags, {'loss', 'entropy', 'sampler_gap', 'abs_advantage', 'update_norm',
               'kl', 'clip_fraction'}
    )


if __name__ == '__main__':
  absltest.main()

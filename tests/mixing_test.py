"""What a config may not say of a mixture, together with its other keys."""

from absl.testing import absltest, parameterized

from gradlens import tasks
from gradlens.configs import default
from gradlens.setup import mixing


def make(arg='', active=None, **kwargs):
  """The mixture of three tasks with places for 12 prompts each, of 8."""
  config = default.get_config()
  default.parse_arg(
      config, 'prompts_per_task=8,mixture.max_prompts=12,num_steps=100'
  )
  default.parse_arg(config, arg)
  config.mixture.kwargs = kwargs
  config.mixture.active = {} if active is None else active
  return mixing.mixture(config, [
      tasks.Task(
          name, [tasks.Record(f'{name}{i}', '', {}) for i in range(50)], [],
          verify=str.__eq__,
      ) for name in 'abc'
  ])


FIXED = 'mixture.kind=fixed'


class CorrectionTest(parameterized.TestCase):

  @parameterized.product(
      name=('mgda', 'mt_grpo', 'famo', 'equalize_norms'),
      mixture=(
          ('', dict(active=dict(b=(3, -1)))),
          ('', dict(active=dict(b=[0, 3]))),
          (FIXED, dict(shares=dict(a=1, b=0, c=1))),
      ),
  )
  def test_refuses_what_may_be_absent(self, name, mixture):
    arg, kwargs = mixture
    with self.assertRaisesRegex(
        ValueError, f"correction.name='{name}' .* mixture.active=.*'b' has none"
        ".*'total', 'mean', 'constant'.") as caught:
      make(f'{arg},correction={name}', **kwargs)
    self.assertNotIn('\n', str(caught.exception))
    for blind in ('total', 'mean', 'constant'):
      made = make(f'{arg},correction={blind}', **kwargs)
      self.assertEqual(made.absent, ['b'])

  @parameterized.parameters(
      ('', {}), (FIXED, dict(shares=dict(a=1, b=1e-9, c=1))),
      ('mixture.kind=sec', {}), ('mixture.kind=pac', {}),
  )
  def test_allows_what_is_always_there(self, arg, kwargs):
    made = make(f'{arg},correction=mgda', **kwargs)
    self.assertEmpty(made.absent)


class PeriodsTest(parameterized.TestCase):

  def test_what_changes_after_the_last_step_does_not_matter(self):
    # Of 100 steps the last is 99.
    active = dict(a=(0, 100), b=(0, 100), c=(0, 100))
    made = make('correction=mgda', active=active)
    self.assertEmpty(made.absent)
    with self.assertRaisesRegex(ValueError, 'cannot be drawn at step 100:'):
      make('num_steps=101', active=active)
    # Two tasks at each step, and one from 100 on.
    active = dict(a=(0, 50), b=(50, 100))
    self.assertEqual(make(active=active).absent, ['a', 'b'])
    with self.assertRaisesRegex(ValueError, 'cannot be drawn at step 100:'):
      make('num_steps=101', active=active)
    # What joins after the end is never there.
    self.assertEqual(make(active=dict(c=(100, -1))).absent, ['c'])


class SplitsTest(parameterized.TestCase):

  @parameterized.product(
      kind=('gradient', 'aligned'),
      arg=('loss.mask_truncated=True', 'loss.aggregate=token_mean',
           'num_splits=1'),
  )
  def test_unbiased_norms_need_independent_splits(self, kind, arg):
    key, _, value = arg.partition('=')
    with self.assertRaisesRegex(
        ValueError, f"mixture.kind='{kind}' .*independent; .*{key}='?{value}'? "
        ".*estimate='naive'"):
      make(f'mixture.kind={kind},{arg}')
    if kind == 'gradient':
      made = make(f'mixture.kind={kind},{arg}', estimate='naive')
      self.assertEqual(made.kind.needs, 'naive')
    self.assertEqual(make(f'mixture.kind={kind}').kind.needs, 'unbiased')


if __name__ == '__main__':
  absltest.main()

"""What a config may not say of advantages, losses and updates."""

from absl.testing import absltest, parameterized

from gradlens.configs import default
from gradlens.setup.values import check_values


class ValuesTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ('further_behind', 'rollout.lag=2', 'rollout.lag=2 must be 0 or 1'),
      ('before_the_first', 'rollout.lag=-1', 'rollout.lag=-1 must be 0 or 1'),
      ('answers_of_a_policy', 'objective=supervised,rollout.lag=1',
       "rollout.lag=1 .*objective='supervised' samples nothing; set it to 0"),
      ('surrogate', 'loss.surrogate=ppo', "'ppo'.*clip, gspo, gspo_token"),
      ('baseline', 'advantage.baseline=mean', "'mean'.*group, leave_one_out"),
      ('estimator', 'loss.kl_estimator=k4', "'k4'.*k1, k2, k3"),
      ('clip', 'loss.clip_low=-0.1', 'loss.clip_low=-0.1 must be 0 or more'),
      ('kl', 'loss.kl_coef=-1', 'loss.kl_coef=-1.0 must be 0 or more'),
      ('entropy', 'loss.entropy_coef=-1', 'loss.entropy_coef=-1.0 must be 0'),
      ('mini_batches', 'num_mini_batches=3',
       'prompts_per_task=16 is not .* num_mini_batches=3'),
      ('no_mini_batch', 'num_mini_batches=0', 'num_mini_batches=0 must be 1'),
      ('mini_batches_of_unequal_quotas',
       'num_mini_batches=2,mixture.max_prompts=32',
       'num_mini_batches=2 .*max_prompts=32 above prompts_per_task=16.*=1, or'),
      ('refilled_by_task',
       'mixture.refill_rounds=2,advantage.baseline=task,advantage.scale=task',
       "refill_rounds=2 .*baseline='task'; set it to 0, or .*'group' or"),
      ('refilled_by_batch',
       'mixture.refill_rounds=1,advantage.baseline=batch,advantage.scale=none',
       "refill_rounds=1 .*baseline='batch'; set it to 0"),
      ('group_of_a_batch', 'advantage.baseline=batch',
       "scale='std'.*baseline='batch'.*use scale='task'"),
      ('no_others', 'advantage.baseline=leave_one_out,num_completions=1',
       'num_completions=1; raise it to 2'),
      ('dual_clip', 'loss.dual_clip=0.9', 'dual_clip=0.9 must be above 1'),
      ('cap', 'loss.importance_cap=1.0', 'importance_cap=1.0 must be above 1'),
      ('dual_clip_of_weights', 'loss.dual_clip=3,loss.surrogate=cispo',
       "dual_clip=3.0 .*surrogate='cispo'; set dual_clip=0"),
      ('sequences_by_token', 'loss.surrogate=gspo,loss.aggregate=token_mean',
       "'gspo'.*'token_mean'.*use aggregate='sequence_mean'"),
      ('k1', 'loss.kl_coef=0.1,loss.kl_estimator=k1',
       "'k1' has a gradient of mean 0.*kl_weighted=True"),
      ('reference_of_answers', 'objective=supervised,loss.kl_coef=0.1',
       "kl_coef=0.1.*objective='supervised' has none"),
      ('mask_of_answers', 'objective=supervised,loss.mask_truncated=True',
       "mask_truncated=True.*objective='supervised' has none"),
      ('coupled', 'correction.kind=unbiased,loss.aggregate=token_mean',
       "kind='unbiased' needs splits.*'token_mean'"),
      ('coupled_by_masks', 'correction.kind=cross,loss.mask_truncated=True',
       "kind='cross' needs splits.*mask_truncated=True"),
  )
  def test_refuses(self, arg, message):
    config = default.get_config()
    default.parse_arg(config, arg)
    with self.assertRaisesRegex(ValueError, message) as caught:
      check_values(config)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(
      '', 'advantage.baseline=batch,advantage.scale=none',
      'loss.kl_coef=0.1,loss.kl_estimator=k1,loss.kl_weighted=True',
      'loss.surrogate=gspo_token,loss.aggregate=token_mean',
      'loss.dual_clip=3,loss.importance_cap=2', 'num_mini_batches=4',
      'mixture.refill_rounds=2,advantage.scale=batch',
      'mixture.refill_rounds=2,advantage.baseline=leave_one_out,'
      'advantage.scale=none',
      'loss.mask_truncated=True', 'num_mini_batches=2,mixture.max_prompts=16',
      'num_micro_batches=2,mixture.max_prompts=32',
  )
  def test_allows(self, arg):
    config = default.get_config()
    default.parse_arg(config, arg)
    check_values(config)


if __name__ == '__main__':
  absltest.main()

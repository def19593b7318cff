"""The four domains from end to end: made-up records, and the real verifiers."""

import os
import pathlib
import shutil

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import ByT5Tokenizer

from gradlens import rollout, train
from gradlens.configs import multidomain
from gradlens.setup import build

_TOKENIZER = ByT5Tokenizer()


def solution(task, record):
  """What a model that knows the answer would say."""
  entry = record.entry
  match task:
    case 'code':
      return f'Like this.\n{entry["solution"]}'
    case 'countdown':
      a, b, c = entry['numbers']
      return f'<answer>{a} + {b} - {c}</answer>'
  return f'Hence \\boxed{{{record.answer}}}.'


def make_engine(config):
  """Of a prompt's completions, every other one is right."""
  known = {
      record.prompt: solution(task.name, record)
      for task in build.load_tasks(config)
      for record in [*task.train, *task.heldout]
  }

  def make_sampler(model, *, max_new_tokens, stop_tokens, **unused):
    del model, unused
    [stop] = stop_tokens

    def sampler(params, prompts_NxT, mask_NxT, keys_NxG):
      del params
      n, g = keys_NxG.shape
      tokens = np.zeros((n, g, max_new_tokens), np.int32)
      mask = np.zeros(tokens.shape, bool)
      for i, (prompt, real) in enumerate(
          zip(prompts_NxT, mask_NxT, strict=True)
      ):
        right = known[_TOKENIZER.decode(prompt[real].tolist())]
        for j in range(g):
          said = '(?)' if j % 2 else right
          own = [*_TOKENIZER.encode(said, add_special_tokens=False), stop]
          tokens[i, j, : len(own)], mask[i, j, : len(own)] = own, True
      return rollout.Completions(tokens, mask, jnp.zeros(tokens.shape))

    return sampler

  return make_sampler


@pytest.mark.slow
class MultidomainTest(absltest.TestCase):

  def test_who_knows_all_is_paid_for_all(self):
    if not shutil.which('bwrap') and 'CI' not in os.environ:
      self.skipTest('there is no bwrap')
    config = multidomain.get_config(
        'tiny,num_steps=2,rollout.max_new_tokens=64'
    )
    workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    run = train.train(config, workdir, make_sampler=make_engine(config))
    self.assertEqual(run.tasks, ['code', 'countdown', 'finqa', 'math'])
    for task in run.tasks:
      # 0.9 for the answer, and 0.1 for a letter in it; nothing for '(?)'.
      for tag, want in (
          ('reward', 0.5), ('pass_rate', 0.5), ('zero_advantage', 0.0),
          ('abs_advantage', 1.0), ('truncated', 0.0), ('verifier_errors', 0.0),
          ('verifier_timeouts', 0.0), ('prompts', 4.0),
      ):
        np.testing.assert_allclose(
            run.values(f'{tag}/{task}'), [want, want], rtol=1e-5,
            err_msg=f'{tag}/{task}',
        )
      for rewards in run.evals.values():
        np.testing.assert_allclose(rewards[task], [0.5] * 16, rtol=1e-6)
      for tag in ('norm_sq/unbiased', 'norm_sq/naive', 'snr', 'share/before',
                  'entropy', 'sampler_gap', 'clip_fraction', 'length'):
        self.assertTrue(np.isfinite(run.values(f'{tag}/{task}')).all(), tag)


if __name__ == '__main__':
  absltest.main()

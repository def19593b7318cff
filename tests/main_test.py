"""The programs' answers to wrong input: one sentence, and nothing touched."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized
from folders import snapshot
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = 'tests/tiny_config.py'

# Runs one program after the other, each in a fork of its own: importing them
# takes much longer than an answer. What is frozen need not be copied.
_SERVER = """
import gc, json, os, runpy, sys
import reasoning_gym
from gradlens import report, train
gc.collect()
gc.freeze()
for line in sys.stdin:
  program, args, out, err = json.loads(line)
  if not os.fork():
    for number, path in enumerate((out, err), 1):
      os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = [program, *args]
    runpy.run_module(program, run_name='__main__', alter_sys=True)
    break
  print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""

# Overrides, and what the sentence must hold: place, value and remedy.
_REFUSED = {
    'unknown_key': (
        ['--config.foo=1'], '--config.foo=1: no such key', 'configs/default.py'
    ),
    'unknown_nested_key': (
        ['--config.optimizer.lr', '1'], '--config.optimizer.lr: no such key'
    ),
    'value_of_another_type': (['--config.num_steps=many'], 'num_steps=many'),
    'section': (['--config.loss=3'], '--config.loss=3', 'not a dict'),
    'correction': (
        ['--config.correction.name=pcgrd'],
        "config.correction.name='pcgrd'", 'pcgrad',
    ),
    'number_of_weights': (
        ['--config.correction.name=constant',
         "--config.correction.kwargs={'weights': [1.0, 2.0, 3.0]}"],
        'config.correction.kwargs', '[1.0, 2.0, 3.0]', '3 weights for 2 tasks',
    ),
    'weights_that_are_no_numbers': (
        ['--config.correction.name=constant',
         "--config.correction.kwargs={'weights': ['a', 'b']}"],
        'config.correction.kwargs', "['a', 'b']",
    ),
    'argument_of_a_correction': (
        ['--config.correction.name=equalize_norms',
         "--config.correction.kwargs={'target': 'big'}"],
        'config.correction.kwargs', "'big'", 'geometric',
    ),
    'objective': (
        ['--config.objective=dpo'], "config.objective='dpo'", 'grpo, supervised'
    ),
    'aggregate': (
        ['--config.loss.aggregate=mean'],
        "config.loss.aggregate='mean'", 'token_mean', 'sequence_mean',
    ),
    'normalize': (
        ['--config.loss.normalize=all'],
        "config.loss.normalize='all'", 'batch, task',
    ),
    'advantage': (
        ['--config.advantage.scale=mad'],
        "config.advantage.scale='mad'", 'std, none',
    ),
    'instrument_every': (
        ['--config.instrument_every=2', '--config.correction.name=pcgrad'],
        'instrument_every=2', "correction.name='pcgrad'", 'instrument_every=1',
    ),
    'splits': (['--config.num_splits=3'], 'prompts_per_task=8', 'num_splits=3'),
    'too_many_prompts': (
        ['--config.prompts_per_task=1000'],
        'prompts_per_task=1000', 'between 1 and the 768', "'long'",
    ),
    'mixture': (
        ['--config.mixture.kind=even'], "mixture.kind='even'", 'uniform, fixed'
    ),
    'argument_of_a_mixture': (
        ['--config.mixture.kind=gradient', '--config.mixture.max_prompts=16',
         "--config.mixture.kwargs={'power': 0}"],
        'config.mixture.kwargs', 'power=0 must be above 0',
    ),
    'quota': (
        ['--config.mixture.kind=fixed', '--config.mixture.max_prompts=12',
         "--config.mixture.kwargs={'shares': {'long': 7, 'short': 1}}"],
        "task 'long'", '14 prompts', 'mixture.max_prompts', '12', 'raise it',
    ),
    'no_room': (
        ['--config.mixture.kind=sec'], "mixture.kind='sec'",
        'mixture.max_prompts leaves room for 8',
    ),
    'odd_room': (
        ['--config.mixture.max_prompts=11'], 'mixture.max_prompts=11',
        'multiple of num_splits=2',
    ),
    'little_room': (
        ['--config.mixture.max_prompts=6'], 'max_prompts=6', 'below', '=8',
    ),
    'nothing_to_replace': (
        ['--config.mixture.refill_rounds=1', '--config.objective=supervised'],
        'mixture.refill_rounds=1', "objective='supervised'", 'set it to 0',
    ),
    'no_rewards': (
        ['--config.mixture.kind=sec', '--config.mixture.max_prompts=16',
         '--config.objective=supervised'],
        "mixture.kind='sec'", 'learns from rewards', "'supervised'",
    ),
    'no_gradients': (
        ['--config.mixture.kind=gradient', '--config.mixture.max_prompts=16',
         '--config.instrument_every=0'],
        "mixture.kind='gradient'", 'instrument_every=0', 'set it to 1',
    ),
    'no_independent_splits': (
        ['--config.mixture.kind=gradient', '--config.mixture.max_prompts=16',
         '--config.loss.aggregate=token_mean'],
        "mixture.kind='gradient'", "aggregate='token_mean'",
        "estimate='naive'",
    ),
    'never': (['--config.checkpoint.every=0'], 'checkpoint.every=0', '1 or'),
    'profile': (['--config.profile.steps=-1'], 'profile.steps=-1', '0 or'),
    'nothing_kept': (['--config.checkpoint.keep=0'], 'checkpoint.keep=0'),
    'no_completions': (['--config.num_completions=0'], 'num_completions=0'),
    'temperature': (['--config.rollout.temperature=-1.0'], 'temperature=-1.0'),
    'greedy': (['--config.rollout.temperature=0.0'], 'ature=0.0', 'above 0'),
    'attention': (['--config.compute.attention=flash'], "'flash'", 'splash'),
    'kernel': (
        ['--config.compute.attention=splash'], 'needs a TPU', 'this is a cpu',
    ),
    'dtype': (['--config.compute.dtype=float8'], "'float8'", 'bfloat16'),
    'adapters': (
        ['--config.lora.rank=2', '--config.lora.targets=q+mlp'],
        "lora.targets='q+mlp'", 'gate',
    ),
    'chat': (['--config.prompt.chat'], 'prompt.chat=True', 'chat template'),
    'system': (['--config.prompt.system=Be brief.'], "'Be brief.'", 'chat'),
    'source': (
        ['--config.tasks.long.source=hf:gsm8k'],
        "task 'long'", "'hf:gsm8k'", 'rg:',
    ),
    'dataset': (
        ['--config.tasks.long.source=rg:spell_backwards'],
        "task 'long'", "'spell_backwards'", "did you mean 'spell_backward'",
    ),
    'parameter': (
        ['--config.tasks.long.source=rg:spell_backward?min_len=3'],
        "task 'long'", "'min_len'", 'min_word_len',
    ),
    'pattern': (
        ['--config.tasks.long.pattern=numbers: (.*)'],
        "task 'long'", "'numbers: (.*)'", 'does not match', 'change',
    ),
    'too_few_prompts': (
        ['--config.tasks.long.source=rg:simple_geometry?min_sides=3&max_sides=3'
         '&min_angle=10&max_angle=20',
         r'--config.tasks.long.pattern=are: (\d+)\.0°, (\d+)\.0°',
         '--config.tasks.long.template={0},{1}'],
        "task 'long'", '121 distinct prompts', '1024 asked', 'widen',
    ),
    'too_few_asked_for': (
        ['--config.data.num_train=7'], 'num_train=7', 'too few', '1024'
    ),
    'long_prompt': (
        ['--config.rollout.max_prompt_tokens=6'],
        "task 'long'", '8 tokens', 'max_prompt_tokens=6', 'raise it to 8',
    ),
    'long_answer': (
        ['--config.rollout.max_new_tokens=7'],
        "task 'long'", '8 tokens', 'rollout.max_new_tokens=7', 'raise it to 8',
    ),
    'context': (
        ['--config.rollout.max_new_tokens=30'], 'rollout.max_prompt_tokens=8',
        'rollout.max_new_tokens=30', 'context of 32 tokens', 'lower',
    ),
    'vocabulary': (
        ['--config.model.vocab_size=100'], 'vocab_size=100', '384', 'raise'
    ),
    'model': (['--config.model.model_type=gpt2'], "type='gpt2'", 'qwen3'),
    'init_from': (
        ['--config.init_from=/no/model'],
        "config.init_from='/no/model'", 'no config.json',
    ),
}


@pytest.mark.slow
class MainTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.server = cls.enterClassContext(subprocess.Popen(
        [sys.executable, '-c', _SERVER], cwd=_ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | dict(JAX_PLATFORMS='cpu'),
    ))
    cls.addClassCleanup(cls.server.stdin.close)

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.root / 'run'

  def program(self, *args, name='gradlens.main'):
    out, err = self.root / 'out', self.root / 'err'
    print(json.dumps([name, args, str(out), str(err)]), file=self.server.stdin,
          flush=True)
    code = int(self.server.stdout.readline())
    return code, out.read_text(), err.read_text()

  def assert_refused(self, args, *parts, name='gradlens.main', usage=False):
    """One sentence on stderr, with `parts`, and the folder as it was."""
    before = self.workdir.is_dir() and snapshot(self.workdir)
    code, out, err = self.program(*args, name=name)
    sentence, *rest = err.splitlines()
    self.assertStartsWith(sentence, 'gradlens: ')
    self.assertEqual(
        [line.partition(':')[0] for line in rest], ['Usage'] * usage, err
    )
    for part in parts:
      self.assertIn(part, sentence)
    self.assertEqual((code, out), (1, ''))
    self.assertEqual(self.workdir.is_dir() and snapshot(self.workdir), before)

  def main(self, *overrides, config=_CONFIG):
    return [f'--config={config}', f'--workdir={self.workdir}', *overrides]

  @parameterized.named_parameters(
      (name, *case) for name, case in _REFUSED.items()
  )
  def test_wrong_config(self, overrides, *parts):
    of_flags = any(word in parts[0] for word in ('--config', 'many'))
    self.assert_refused(self.main(*overrides), *parts, usage=of_flags)

  @parameterized.parameters(
      ('foo=1', "config argument 'foo=1': there is no key 'foo'"),
      ('smoke', "config argument 'smoke' is not of the form key=value"),
      ('num_steps=x', "config argument 'num_steps=x': 'x' is no int"),
  )
  def test_wrong_config_argument(self, arg, message):
    args = self.main(config=f'{_CONFIG}:{arg}')
    self.assert_refused(args, message, usage=True)

  def test_missing_arguments(self):
    config, workdir = self.main()
    self.assert_refused([workdir], '--config', usage=True)
    self.assert_refused([config], '--workdir', usage=True)

  @parameterized.parameters([[]], [['--config.seed=1']])
  def test_no_such_config_file(self, overrides):
    args = self.main(*overrides, config='configs/toi.py')
    self.assert_refused(args, 'No such file', 'configs/toi.py', usage=True)

  def test_no_such_flag(self):
    self.assert_refused(self.main('--confg.seed=1'), 'confg.seed', usage=True)

  def test_a_task_without_a_template(self):
    config = self.root / 'config.py'
    config.write_text(
        'from gradlens.configs import default\n'
        'def get_config():\n'
        '  c = default.get_config()\n'
        "  c.tasks.long = dict(source='rg:spell_backward', pattern='(.*)')\n"
        '  return c\n'
    )
    self.assert_refused(
        self.main(config=config), 'config.tasks.long', 'pattern, source',
        'template',
    )

  def test_no_task(self):
    config = self.root / 'config.py'
    config.write_text('from gradlens.configs.default import get_config\n')
    self.assert_refused(
        self.main(config=config), 'config.tasks is empty', 'configs/toy.py'
    )

  def test_foreign_workdir(self):
    self.workdir.mkdir()
    (self.workdir / 'thesis.tex').write_text('mine')
    self.assert_refused(
        self.main(), f'workdir {self.workdir}', 'thesis.tex', 'choose an empty'
    )

  def test_workdir_that_cannot_be_written(self):
    (self.root / 'file').write_text('mine')
    self.workdir = self.root / 'file' / 'run'
    self.assert_refused(
        self.main(), f'workdir {self.workdir} cannot be written',
        'Not a directory', 'choose another',
    )

  def test_a_mended_config_is_not_taken_for_another(self):
    self.assert_refused(self.main('--config.data.num_train=7'), 'num_train=7')
    code, out, err = self.program(*self.main('--config.num_steps=1'))
    self.assertEqual(code, 0, err)
    # The run's table, and where its report is.
    self.assertRegex(out, r'(?m)^long +')
    self.assertIn(f'Report: {self.workdir}/report.html', out)
    self.assertTrue((self.workdir / 'report.html').exists())
    self.assertIn('step 1/1', err)

    self.assert_refused(
        self.main(), f'workdir {self.workdir} holds a run of another config',
        'num_steps was 1 and is 4', 'choose another workdir',
    )
    # Cut off where many readers are at work when the first of them fails.
    for path in self.workdir.glob('checkpoints/1/params/d/*'):
      path.write_bytes(path.read_bytes()[:10])
    self.assert_refused(
        self.main('--config.num_steps=1'),
        f'checkpoint {self.workdir}/checkpoints/1 cannot be read',
        'Remove that folder to go on',
    )

  @parameterized.parameters('nothing', 'folder', 'file')
  def test_report_on_what_is_no_run(self, kind):
    if kind == 'folder':
      self.workdir.mkdir()
      (self.workdir / 'thesis.tex').write_text('mine')
    elif kind == 'file':
      self.workdir.write_text('mine')
    self.assert_refused(
        [f'--workdir={self.workdir}'], f'{self.workdir} holds no run',
        'config.json', '--workdir', name='gradlens.report',
    )

  def test_in_a_process_of_its_own(self):
    program = subprocess.run(
        [sys.executable, '-m', 'gradlens.main', *self.main('--config.foo=1')],
        cwd=_ROOT, capture_output=True, text=True,
        env=os.environ | dict(JAX_PLATFORMS='cpu'),
    )
    self.assertEqual((program.returncode, program.stdout), (1, ''))
    # On some processors TensorFlow begins with a note that nothing silences.
    self.assertRegex(program.stderr, r'(?m)^gradlens: .*foo=1.*\nUsage: .*\n\Z')
    self.assertNotIn('Traceback', program.stderr)


if __name__ == '__main__':
  absltest.main()

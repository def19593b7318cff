"""The code of docs/ runs, prints what it says, and is as short as it says."""

import importlib.util
import os
import pathlib
import re

from absl.testing import absltest, parameterized
import jax
from known_run import write_run
import pages
from pages import ROOT
import pytest

from gradlens import models
from gradlens.configs import default
from gradlens.report import history

COMPOSE = 'docs/compose.md'
GUIDE = 'docs/guide_correction.md'
# Pages whose code another test runs, or finds in itself.
ELSEWHERE = {
    'docs/first_hour.md': 'first_hour_test',
    'docs/tasks.md': 'sources_test',
    'docs/verifiers.md': 'verifiers_test',
}
HERE = (COMPOSE, GUIDE, 'docs/howto.md', 'docs/mixture.md', 'docs/models.md')
PAGES = [
    'README.md', 'CONTRIBUTING.md',
    *(path.relative_to(ROOT).as_posix() for folder in ('docs', 'experiments')
      for path in sorted((ROOT / folder).glob('**/*.md'))),
]


def programs(page: str) -> list[list[tuple[str, str]]]:
  """A block with imports starts a program, which later blocks go on with."""
  found = []
  for source, output in pages.examples(page):
    if re.match('(import|from) ', source):
      found.append([])
    found[-1].append((source, output))
  return found


def commands(page: str) -> list[str]:
  """What is started by `python -m`, a line each."""
  text = (ROOT / page).read_text().replace('\\\n', ' ')
  return re.findall(r'python -m ((?:gradlens|benchmarks)\b[^\n`|&#]*)', text)


def source_of(module: str) -> str:
  """Of a program, with what it takes its flags from."""
  path = ROOT / module.replace('.', '/')
  path = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
  source = path.read_text()
  if 'host_flags()' in source:
    source += (ROOT / 'gradlens/command.py').read_text()
  return source


def config_of(path: str) -> object:
  """Of `FILE:ARGUMENT`."""
  file, _, arg = path.partition(':')
  spec = importlib.util.spec_from_file_location('page_config', ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg) if arg else module.get_config()


class ProgramsTest(parameterized.TestCase):

  @parameterized.parameters(
      *((program,) for program in programs(COMPOSE)),
      # One program with the imports where they are needed; runs have a test of
      # their own.
      (sum(programs(GUIDE), []),))
  def test_prints_what_the_page_says(self, program):
    namespace = {}
    for source, output in program:
      if 'train.train(' in source:
        continue
      with self.subTest(source.splitlines()[0]):
        # What users run does not promote ranks by the tests' rules.
        with jax.numpy_rank_promotion('allow'):
          got = pages.printed(source, namespace=namespace)
        self.assertEqual(output, got)

  def test_no_output_is_left_out(self):
    for source, output in pages.examples(COMPOSE):
      self.assertEqual('print(' in source, bool(output), source)

  def test_programs_in_a_trainer_are_short(self):
    text = (ROOT / COMPOSE).read_text().partition('\n## Taps')[0]
    sources = re.findall(r'^```python\n(.*?)^```$', text, re.DOTALL | re.M)
    self.assertGreater(len(sources), 4)
    for source in sources:
      self.assertLessEqual(len(source.splitlines()), 25, source)

  def test_every_page_with_code_is_run(self):
    with_code = {page for page in PAGES if page.startswith('docs/')
                 and pages.blocks(page, 'python')}
    self.assertEqual(with_code, {*HERE, *ELSEWHERE})
    for page, test in ELSEWHERE.items():
      self.assertIn(page, (ROOT / f'tests/{test}.py').read_text())


class FragmentsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    before = os.getcwd()
    os.chdir(self.create_tempdir().full_path)
    self.addCleanup(os.chdir, before)

  def test_mixture_names_keys(self):
    [source] = pages.blocks('docs/mixture.md', 'python')
    config = default.get_config()
    before = config.to_json()
    exec(source, dict(c=config))
    self.assertNotEqual(before, config.to_json())
    self.assertEqual(config.mixture.kwargs.power, 2.0)

  def test_models_loads_and_saves(self):
    source = pages.blocks('docs/models.md', 'python')[0]
    self.assertEqual(source.count("'Qwen/Qwen2.5-0.5B'"), 2)
    namespace = dict(tokens_BxL=jax.numpy.ones((2, 5), int))
    exec(source.replace("'Qwen/Qwen2.5-0.5B'", repr(str(models.WARM))),
         namespace)
    self.assertEqual(namespace['logits_BxLxV'].shape[:2], (2, 5))
    self.assertTrue(pathlib.Path('mine/model.safetensors').exists())

  def test_howto_compares(self):
    for name in ('total', 'pcgrad'):
      write_run(pathlib.Path('runs') / name)
    [source] = pages.blocks('docs/howto.md', 'python')
    printed = pages.printed(source).splitlines()
    self.assertLen(printed, 6)
    for line in printed:
      self.assertRegex(line, r'^(total|pcgrad) +[abc] +[+-]0\.\d{3}$')

  @pytest.mark.slow
  def test_guide_runs(self):
    first, *_, run = pages.blocks(GUIDE, 'python')
    # Of seconds; the notebook 03 does the same with the toy tasks.
    for old, new in (
        ('from gradlens.configs import toy', 'import tiny_config as toy'),
        ('num_steps=20', 'num_steps=1')):
      self.assertEqual(run.count(old), 1)
      run = run.replace(old, new)
    with jax.numpy_rank_promotion('allow'):
      printed = pages.printed(first, run)
    self.assertEqual(printed.count('\nshort '), 2)
    names = [
        history.load(f'runs/{name}').setting('correction.name')
        for name in ('total', 'temper')]
    self.assertEqual(names, ['total', 'temper'])


class CommandsTest(parameterized.TestCase):

  @parameterized.parameters(*PAGES)
  def test_modules_flags_and_keys_exist(self, page):
    for command in commands(page):
      module, *words = command.split()
      source = source_of(module)
      for flag, _, value in (
          word.lstrip('-').partition('=')
          for word in words if re.match(r'--\w', word)):
        if flag.startswith('config.'):
          self.assert_key(flag.removeprefix('config.'), command)
        else:
          self.assertRegex(source, rf"'(--)?{flag}'", command)
        if flag == 'config' and value.startswith('configs/'):
          self.assertNotEmpty(config_of(value).tasks, command)

  def assert_key(self, key, command):
    value = default.get_config()
    for part in key.split('.'):
      self.assertIn(part, value, command)
      value = value[part]

  def test_there_are_commands(self):
    self.assertGreater(sum(len(commands(page)) for page in PAGES), 30)


if __name__ == '__main__':
  absltest.main()

"""A run's folder: made, known again, and never taken from anyone."""

import importlib.metadata
import json
import pathlib
import re

from absl.testing import absltest, parameterized
from folders import snapshot
import jax

from gradlens.tasks import verifiers
from gradlens.workdir import claim

CONFIG = dict(
    seed=3, log_seconds=1.0, tasks=dict(a=dict(source='x'), b=dict(source='y')),
    correction=dict(name='total', kwargs={}), checkpoint=dict(every=5, keep=2),
    evaluate=dict(every=7),
)


def canonical(name):
  return re.sub('[-_.]+', '-', name).lower()


def requirements(package, extra=None):
  """Names of what a package needs, everywhere or for an extra of its own."""
  found = set()
  for line in importlib.metadata.requires(package) or []:
    name, _, condition = line.partition(';')
    wanted = extra is not None and re.search(
        rf'extra == ["\']{extra}["\']', condition)
    if not condition or wanted:
      found.add(canonical(re.match(r'[\w.-]+', name)[0]))
  return found


class ClaimTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.root / 'new' / 'run'

  def refused(self, config, workdir=None):
    with self.assertRaises(ValueError) as caught:
      claim.claim(workdir or self.workdir, config)
    self.assertNotIn('\n', str(caught.exception))
    return str(caught.exception)

  def test_a_new_folder_is_made_and_known_again(self):
    self.assertEqual(
        pathlib.Path(claim.claim(self.workdir, CONFIG)), self.workdir
    )
    before = snapshot(self.workdir)
    self.assertCountEqual(before, ['config.json', 'versions.json'])
    self.assertEqual(claim.read_config(self.workdir), CONFIG)
    claim.claim(self.workdir, CONFIG)
    self.assertEqual(snapshot(self.workdir), before)

  def test_a_function_is_its_name(self):
    config = CONFIG | dict(tasks=dict(a=dict(verifier=canonical)))
    flat = claim.flatten(config, 'config.')
    self.assertEqual(
        flat['config.tasks.a.verifier'], f'{__name__}.canonical')
    claim.claim(self.workdir, config)
    self.assertEqual(
        claim.read_config(self.workdir)['tasks'],
        dict(a=dict(verifier=f'{__name__}.canonical')))
    other = CONFIG | dict(tasks=dict(a=dict(verifier=requirements)))
    self.assertIn('requirements', self.refused(other))

  def test_a_function_that_no_process_finds_is_refused(self):
    def mine(*unused):
      return 1.0

    # As of a config file, which is loaded under a name of its own.
    ours = type(canonical)(canonical.__code__, {'__name__': 'config_config'})
    both = verifiers.Sum(((0.5, canonical), (0.5, canonical)))
    for function in (mine, ours, both):
      config = CONFIG | dict(tasks=dict(a=dict(verifier=function)))
      self.assertIn('in a module beside the config', self.refused(config))
      self.assertFalse(self.workdir.exists())
      with self.assertRaisesRegex(ValueError, 'no other process'):
        claim.flatten(config)

  def test_tuples_are_lists_once_written(self):
    config = dict(CONFIG, correction=dict(kwargs=dict(weights=(1.0, 2.0))))
    claim.claim(self.workdir, config)
    claim.claim(self.workdir, config)  # which is no other config
    written = claim.read_config(self.workdir)
    self.assertEqual(written['correction']['kwargs']['weights'], [1.0, 2.0])

  def test_an_empty_folder_is_taken(self):
    self.workdir.mkdir(parents=True)
    claim.claim(self.workdir, CONFIG)
    self.assertEqual(claim.read_config(self.workdir), CONFIG)

  def test_a_foreign_folder_is_left_alone(self):
    (self.workdir / 'folder').mkdir(parents=True)
    (self.workdir / 'thesis.tex').write_text('mine')
    before = snapshot(self.workdir)
    message = self.refused(CONFIG)
    for part in (str(self.workdir), 'folder', 'thesis.tex', 'choose'):
      self.assertIn(part, message)
    self.assertEqual(snapshot(self.workdir), before)

  @parameterized.parameters('file', 'file/run')
  def test_a_folder_that_cannot_be_written(self, name):
    (self.root / 'file').write_text('mine')
    message = self.refused(CONFIG, self.root / name)
    self.assertIn(f'{self.root / name} cannot be written (', message)
    self.assertEqual((self.root / 'file').read_text(), 'mine')

  def test_another_config_is_refused_with_every_key(self):
    claim.claim(self.workdir, CONFIG)
    before = snapshot(self.workdir)
    message = self.refused(dict(
        CONFIG, seed=4, tasks=dict(a=dict(source='z'), c=dict(source='y')),
        correction=dict(name='total', kwargs=dict(target='min')),
        log_seconds=9.0,
    ))
    for part in (
        str(self.workdir), 'seed was 3 and is 4',
        "tasks.a.source was 'x' and is 'z'",
        "tasks.b.source was 'y' and is None",
        "tasks.c.source was None and is 'y'",
        "correction.kwargs.target was None and is 'min'",
        'choose another workdir',
    ):
      self.assertIn(part, message)
    for part in ('correction.name', 'log_seconds'):
      self.assertNotIn(part, message)
    self.assertEqual(snapshot(self.workdir), before)

  @parameterized.parameters(
      dict(log_seconds=2.0), dict(checkpoint=dict(every=1, keep=9)),
      dict(evaluate=dict(every=1, batch_size=3)),
  )
  def test_what_is_not_trained_may_change(self, **changes):
    claim.claim(self.workdir, CONFIG)
    claim.claim(self.workdir, CONFIG | changes)

  @parameterized.parameters(
      (['versions.json'],), (['versions.json.tmp'],),
      (['versions.json', 'config.json.tmp'],),
  )
  def test_a_claim_that_was_cut_off_is_taken_up(self, present):
    self.workdir.mkdir(parents=True)
    for name in present:
      (self.workdir / name).write_text('{"cut')
    claim.claim(self.workdir, CONFIG)
    self.assertEqual(claim.read_config(self.workdir), CONFIG)
    self.assertCountEqual(
        ['config.json', 'versions.json'], snapshot(self.workdir)
    )
    versions = json.loads((self.workdir / 'versions.json').read_text())
    self.assertEqual(versions['jax'], jax.__version__)

  def test_versions_are_of_packages_that_train_always_brings(self):
    # All that is asked for by what is asked for by the extra.
    brought, left = {'gradlens'}, requirements('gradlens', extra='train')
    while left:
      name = left.pop()
      if name not in brought:
        brought.add(name)
        left |= requirements(name)
    self.assertContainsSubset(map(canonical, claim.PACKAGES), brought)
    self.assertContainsSubset(
        ['math-verify', 'latex2sympy2_extended', 'sympy',
         'tensorflow-datasets', 'reasoning-gym'], claim.versions()
    )

  def test_no_run(self):
    with self.assertRaisesRegex(ValueError, f'{self.root} holds no run'):
      claim.read_config(self.root)


if __name__ == '__main__':
  absltest.main()

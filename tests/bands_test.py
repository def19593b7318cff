"""The import order: a module imports only from modules before it.

Read off the syntax tree, so an import inside a function counts as well, and
nothing has to be installed.
"""

import ast
import pathlib
import sys

from absl.testing import absltest, parameterized

PACKAGE = pathlib.Path(__file__).parents[1] / 'gradlens'

LIBRARY = (
    'types', 'partition', 'gram', 'estimates', 'first_order', 'decompose',
    'rule', 'sketch', 'probe', 'residuals', 'shards', 'shared', 'turns', 'tap',
    'value_grad',
    'weightings', 'elementwise', 'blocks', 'state', 'correct', 'apply', 'check',
    'check_taps',
    'diagnostics', 'proxy', 'intervals', 'summary', '__init__',
)
RL = (
    'masked', 'hosts', 'text', 'models', 'tasks', 'rollout', 'advantages',
    'losses', 'mixture',
    'experience.degenerate', 'experience.experience', 'experience',
    'experience.places',
)
PROGRAM = (
    'command',
    'step', 'step.rows', 'step.objective', 'step.optimizer', 'step.placement',
    'step.policies', 'step.task_gradients', 'step.train_step',
    'feed.feed', 'feed', 'feed.ahead',
    'workdir', 'workdir.metrics', 'workdir.best', 'workdir.record',
    'workdir.journal', 'workdir.claim', 'workdir.checkpoint',
    'workdir.profile',
    'evaluation.passing', 'evaluation.evaluation', 'evaluation',
    'report',
    'setup', 'setup.values', 'setup.meshes', 'setup.goal', 'setup.build',
    'setup.sampling', 'setup.mixing',
    'measurement', 'train',
)
COMMANDS = ('main', 'measure', 'evaluate', 'export', 'aot')

PLACE = {name: i for i, name in enumerate(LIBRARY + RL + PROGRAM)}
# One place for all of them: no command imports another.
PLACE |= dict.fromkeys(COMMANDS, len(PLACE))
# Folders whose modules have places of their own.
OPEN = {name.partition('.')[0] for name in PLACE if '.' in name}

LIBRARY_MAY_IMPORT = {'gradlens', 'jax', 'jaxlib', 'numpy', 'optax'}
NEVER_IMPORTED = {'benchmarks', 'colabs', 'configs', 'experiments', 'tests'}
SEES_CONFIG = {'step.optimizer', 'measurement', 'train', *COMMANDS}


def imports(tree: ast.AST, package: str) -> set[str]:
  """Dotted absolute names of all that a module of `package` imports."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parents = package.split('.')[: len(package.split('.')) - node.level + 1]
      parts = [*parents] if node.level else []
      parts += [node.module] if node.module else []
      found |= {'.'.join([*parts, alias.name]) for alias in node.names}
  return found


def place_of(file: str) -> str:
  """What is ordered: a module, or a folder without a place for each of its."""
  folder, *inner = pathlib.PurePath(file).with_suffix('').parts
  if folder in OPEN and inner and inner != ['__init__']:
    return f'{folder}.{inner[0]}'
  return folder


def complaints(file: str, source: str) -> list[str]:
  """What is wrong with the imports of `file`, a path relative to gradlens/."""
  path = pathlib.PurePath(file)
  name = place_of(file)
  if name not in PLACE:
    return [f'{file}: {name} has no place in the import order']
  tree = ast.parse(source)
  found = []
  for target in sorted(imports(tree, '.'.join(['gradlens', *path.parts[:-1]]))):
    top, _, rest = target.partition('.')
    inner = '.'.join(rest.split('.')[:2])
    if inner not in PLACE:
      inner = rest.partition('.')[0]
    if top in NEVER_IMPORTED:
      found.append(f'{file}: gradlens does not import {top}')
    elif name in LIBRARY and not (
        top in LIBRARY_MAY_IMPORT or top in sys.stdlib_module_names):
      found.append(f'{file}: the library band does not import {top}')
    elif target.startswith(('gradlens.configs', 'ml_collections')):
      if name not in SEES_CONFIG:
        found.append(f'{file}: configs stop before {name}')
    elif top == 'gradlens' and inner != name:
      # A name that is no module is the library's public surface.
      before = PLACE.get(inner, PLACE['__init__'])
      if before >= PLACE[name]:
        found.append(f'{file}: {inner or top} does not come before {name}')
  named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
  named |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
  if 'ConfigDict' in named and name not in SEES_CONFIG:
    found.append(f'{file}: configs stop before {name}')
  return found


class BandsTest(parameterized.TestCase):

  def test_import_order(self):
    files = sorted(PACKAGE.rglob('*.py'))
    names = {place_of(f.relative_to(PACKAGE).as_posix()) for f in files}
    # A name that is left over in the order would hide a module that moved.
    self.assertEqual(set(PLACE), names)
    found = []
    for file in files:
      found += complaints(
          file.relative_to(PACKAGE).as_posix(), file.read_text('utf-8'))
    self.assertEqual([], found, '\n'.join(['', *found]))

  @parameterized.named_parameters(
      ('earlier', 'correct.py', 'from gradlens import gram'),
      ('earlier_name', 'correct.py', 'from gradlens.gram import gram_blocks'),
      ('surface', 'masked.py', 'import gradlens as gl'),
      ('surface_name', 'step/train_step.py', 'from gradlens import total'),
      ('within_folder', 'step/policies.py', 'from gradlens.step import rows'),
      ('of_folder', 'step/rows.py', 'from gradlens.experience import Batch'),
      ('within_package', 'tasks/__init__.py', 'from gradlens.tasks import a'),
      ('relative', 'tasks/__init__.py', 'from . import verifier'),
      ('relative_up', 'tasks/verifier.py', 'from ..masked import mean'),
      ('library_jax', 'gram.py', 'import functools, jax.numpy, optax'),
      ('program', 'train.py', 'import clu, flax.nnx, ml_collections'),
      ('word', 'losses.py', '"""No ConfigDict here."""'),
  )
  def test_allows(self, file, source):
    self.assertEqual([], complaints(file, source))

  @parameterized.named_parameters(
      ('later', 'gram.py', 'from gradlens import decompose', 'before gram'),
      ('later_dotted', 'gram.py', 'import gradlens.correct', 'before gram'),
      ('later_name', 'gram.py', 'from gradlens.correct import x',
       'before gram'),
      ('relative', 'gram.py', 'from .correct import check', 'before gram'),
      ('relative_up', 'models/a.py', 'from .. import tasks', 'before models'),
      ('in_function', 'gram.py', 'def f():\n  import gradlens.masked',
       'before gram'),
      ('surface', 'gram.py', 'import gradlens as gl', 'before gram'),
      ('surface_name', 'gram.py', 'from gradlens import pcgrad', 'before gram'),
      ('within_folder', 'step/rows.py', 'from gradlens.step import policies',
       'before step.rows'),
      ('of_folder', 'step/rows.py', 'from gradlens.feed import Feed',
       'before step.rows'),
      ('command', 'main.py', 'from gradlens import measure', 'before main'),
      ('own_folders', 'train.py', 'from experiments import x', 'experiments'),
      ('library_numpy_only', 'gram.py', 'import scipy', 'scipy'),
      ('library_flax', 'weightings.py', 'from flax import nnx', 'flax'),
      ('unknown', 'helpers.py', '', 'no place'),
      ('unknown_folder', 'util/a.py', '', 'no place'),
      ('unknown_in_folder', 'step/helpers.py', '', 'no place'),
      ('config', 'losses.py', 'import ml_collections', 'configs stop'),
      ('config_file', 'mixture.py', 'from gradlens.configs import default',
       'configs stop'),
      ('config_dict', 'losses.py', 'def f(c: x.ConfigDict): pass',
       'configs stop'),
  )
  def test_complains(self, file, source, message):
    found = complaints(file, source)
    self.assertLen(found, 1)
    self.assertIn(message, found[0])


if __name__ == '__main__':
  absltest.main()

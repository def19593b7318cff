"""Every argument of a public function or method has an annotation."""

import ast
import pathlib

from absl.testing import absltest, parameterized

PACKAGE = pathlib.Path(__file__).parents[1] / 'gradlens'


def unannotated(body: list[ast.stmt]) -> list[str]:
  """Arguments without one, closures and private names left out."""
  found = []
  for node in body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      found += [f'{node.name}.{name}' for name in unannotated(node.body)]
    elif isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      given = node.args
      arguments = given.posonlyargs + given.args + given.kwonlyargs
      arguments += [arg for arg in (given.vararg, given.kwarg) if arg]
      found += [
          f'{node.name}({arg.arg})' for arg in arguments
          if arg.annotation is None and arg.arg not in ('self', 'cls')]
  return found


class AnnotationsTest(parameterized.TestCase):

  def test_public_surface(self):
    found = [
        f'{file.relative_to(PACKAGE)}: {name}'
        for file in sorted(PACKAGE.rglob('*.py'))
        for name in unannotated(ast.parse(file.read_text('utf-8')).body)]
    self.assertEqual([], found, '\n'.join(['', *found]))

  @parameterized.parameters(
      ('def f(x: int, *, y): pass', ['f(y)']),
      ('def f(*x, **y): pass', ['f(x)', 'f(y)']),
      ('class A:\n  def f(self, x): pass', ['A.f(x)']),
      ('def f(x: int) -> int:\n  def g(y): pass', []),
      ('def _f(x): pass', []),
      ('class _A:\n  def f(self, x): pass', []),
  )
  def test_finds(self, source, expected):
    self.assertEqual(expected, unannotated(ast.parse(source).body))


if __name__ == '__main__':
  absltest.main()

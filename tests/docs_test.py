"""The code of docs/ runs, prints what it says, and is as short as it says."""

import re

from absl.testing import absltest, parameterized
import jax
import pages

PAGE = 'docs/compose.md'


def programs(page: str) -> list[list[tuple[str, str]]]:
  """A block with imports starts a program, which later blocks go on with."""
  found = []
  for source, output in pages.examples(page):
    if re.match('(import|from) ', source):
      found.append([])
    found[-1].append((source, output))
  return found


class ComposeTest(parameterized.TestCase):

  @parameterized.parameters(*range(len(programs(PAGE))))
  def test_prints_what_the_page_says(self, number):
    namespace = {}
    for source, output in programs(PAGE)[number]:
      with self.subTest(source.splitlines()[0]):
        # What users run does not promote ranks by the tests' rules.
        with jax.numpy_rank_promotion('allow'):
          got = pages.printed(source, namespace=namespace)
        self.assertEqual(output, got)

  def test_no_output_is_left_out(self):
    for source, output in pages.examples(PAGE):
      self.assertEqual('print(' in source, bool(output), source)

  def test_programs_in_a_trainer_are_short(self):
    text = (pages.ROOT / PAGE).read_text().partition('\n## Taps')[0]
    sources = re.findall(r'^```python\n(.*?)^```$', text, re.DOTALL | re.M)
    self.assertGreater(len(sources), 4)
    for source in sources:
      self.assertLessEqual(len(source.splitlines()), 25, source)


if __name__ == '__main__':
  absltest.main()

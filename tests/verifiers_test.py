"""Verifiers: what they take for the answer, and what they find right."""

import dataclasses
import itertools
import operator
import pickle
import re

from absl.testing import absltest, parameterized
import pages

from gradlens import tasks
from gradlens.tasks import verifiers
from gradlens.tasks.verifiers import extract, mathematics

PAGE = 'docs/verifiers.md'


def record(answer='', **entry):
  return tasks.Record('prompt', answer, entry)


def scores(spec, completion, answer='', **entry):
  return verifiers.parse(spec)(completion, record(answer, **entry)).score


class ExtractTest(parameterized.TestCase):

  @parameterized.parameters(
      # The order of the marks, whatever their places.
      (r'#### 1 <answer>2</answer> \boxed{3}', '3'),
      (r'\boxed{3} <answer>2</answer> #### 1', '3'),
      ('#### 1\n<answer>2</answer>', '2'),
      # The last of each.
      (r'\boxed{1} and \boxed{2}', '2'),
      ('<answer>1</answer><answer>2</answer>', '2'),
      ('#### 1\n#### 2', '2'),
      ('The answer is 1. No, the answer is 2.', '2'),
      ('The answer is 1\n#### 2', '2'),
      # Brackets.
      (r'\boxed{\frac{1}{2}}', r'\frac{1}{2}'),
      (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
      (r'\boxed {7} \fbox{8}', '7'),
      (r'\fboxed{7}', '7'),
      (r'\boxedanswer{7} 8', r'\boxedanswer{7} 8'),
      # To the end of the line, without dress.
      ('Answer: 7 apples.\nAs I said.', '7 apples'),
      ('**Answer:** 7', '7'),
      ('**The final answer is: 7**', '7'),
      ('ANSWER IS 7', '7'),
      ('the answers are 7\nor 8', None),
      # Nothing marked.
      (' 7 \n', '7'),
      ('7.', '7'),
      ('7\n8', None),
      ('', None),
      # Marked, and nothing there.
      (r'\boxed{1} \boxed{}', None),
      (r'\boxed{1} \boxed{2', None),
      (r'\boxed 7', None),
      ('<answer> </answer>', None),
      ('#### ', None),
      # As long as it may be, and longer.
      (r'\boxed{' + 'x' * 1000 + '}', 'x' * 1000),
      (r'\boxed{' + 'x' * 1001 + '}', None),
      ('x' * 1001, None),
  )
  def test_answer(self, completion, expected):
    self.assertEqual(extract.answer_of(completion), expected)

  @parameterized.parameters(
      ('7\n8', '8'), ('7\n8\n\n', '8'), ('', None), ('7', '7'),
      ('\\boxed{7}\n8', '7'),
  )
  def test_last_line(self, completion, expected):
    self.assertEqual(extract.answer_of(completion, last_line=True), expected)


class TextTest(parameterized.TestCase):

  @parameterized.parameters(
      ('exact', 'New  York', 'New York', 1),
      ('exact', 'new york', 'New York', 0),
      ('exact?ignore_case=true', 'new york', 'New York', 1),
      ('exact', 'New York City', 'New York', 0),
      ('exact', 'It is\nParis', 'Paris', 0),
      ('exact?last_line=true', 'It is\nParis', 'Paris', 1),
  )
  def test_exact(self, spec, completion, answer, expected):
    self.assertEqual(scores(spec, completion, answer), expected)

  @parameterized.parameters(
      ('B', 1), ('b', 1), ('(B)', 1), ('B.', 1), ('B)', 1), ('B: 12', 1),
      ('(b) 12', 1), ('12', 1), (r'\boxed{\text{B}}', 1),
      (r'The answer is (B).', 1), (r'\boxed{\textbf{(B) }12}', 1),
      ('A', 0), ('A) 12', 0), ('B) 11', 0), ('11', 0), ('E', 0), ('A or B', 0),
      ('B or A', 0), ('A, B', 0), ('AB', 0), ('Because', 0), ('B12', 0),
      # Two choices have this text.
      ('x', 0), ('D. x', 0), ('C', 0),
  )
  def test_choice(self, completion, expected):
    choices = ['11', '12', 'x', 'X']
    self.assertEqual(scores('choice', completion, 'B', choices=choices),
                     expected)

  def test_choice_of_a_record_that_cannot_be_right(self):
    with self.assertRaisesRegex(ValueError, "'C' is none of.*A, B"):
      scores('choice', 'A', 'C', choices=['1', '2'])

  def test_format(self):
    spec = 'format?pattern=' + verifiers.quote(r'(?s)<a>.+</a>\s*[&%+]*')
    self.assertEqual(scores(spec, '<a>1\n2</a> &%+'), 1)
    for text in ('', '<a></a>', '<a>1</a> x', 'x<a>1</a>'):
      self.assertEqual(scores(spec, text), 0)


class NumericTest(parameterized.TestCase):

  @parameterized.parameters(
      ('1234.5', '1,234.5'), ('1234.5', '$1,234.50'), ('1234.5', '1234.5 USD'),
      ('1234.5', '1.2345e3'), ('1234.5', '2469/2'),
      ('1234.5', r'\frac{2469}{2}'), ('1234.5', r'\$1{,}234.5'),
      ('1234.5', r'\(1,234.5\)'), ('1234.5', '+1234.5'),
      ('-12', '(12)'), ('-12', '$(12)'), ('-12', '-12'), ('-12', '\u221212'),
      ('-12', '-$12'), ('-12', '$-12'), ('-0.12', '(12)%'), ('(12)', '-12.0'),
      ('0.145', '14.5%'), ('14.5%', '0.145'), ('14.5%', '14.5 percent'),
      ('14.5%', r'14.5\%'), ('3.2', '3.2 million'), ('3200000', '3.2 million'),
      ('3.2 million', '3,200,000'), ('3.2 million', '3.2'),
      ('3.2 million', '3,200 thousand'), ('5', '5 apples'),
      ('5', r'5\text{ cm}'), ('.5', '0.5'), ('0', '0.0'),
      ('yes', 'Yes'), ('7', 'The answer is $7$ dollars.'),
  )
  def test_right(self, answer, completion):
    self.assertEqual(scores('numeric', completion, answer), 1)

  @parameterized.parameters(
      ('1234.5', '1234.6'), ('1234.5', '1,2345'), ('1234.5', '-1234.5'),
      ('12', '(12)'), ('12', '1 2'), ('12', '12 13'), ('12', '12 or 13'),
      ('12', '12, 13'), ('12', '1_2'), ('12', '0xc'), ('12', 'about 12'),
      ('12', '12%'), ('14.5', '14.5%'), ('14.5%', '14.5'), ('12', '12/0'),
      ('0', '1/0'), ('3.2 million', '3.2 billion'), ('12', '1e999'),
      ('12', 'nan'), ('12', '\u0661\u0662'), ('yes', 'no'), ('12', '12 5%'),
      ('12', '--12'), ('12', '-(-12)'), ('0', ''), ('0', 'none'),
  )
  def test_wrong(self, answer, completion):
    self.assertEqual(scores('numeric', completion, answer), 0)

  @parameterized.parameters(
      # 1% of 200 is 2.
      ('numeric?tolerance=0.01', '201.9', 1),
      ('numeric?tolerance=0.01', '198.1', 1),
      ('numeric?tolerance=0.01', '202.1', 0),
      ('numeric?tolerance=0', '200.0000001', 0),
      ('numeric', '200.0001', 1), ('numeric', '200.0003', 0),
      ('numeric?absolute=5', '205', 1), ('numeric?absolute=5', '205.1', 0),
      ('numeric?absolute=1&tolerance=0.01', '201.9', 1),
      ('numeric?percent=loose', '2%', 0),
      ('numeric?percent=loose', '200%', 1),
      ('numeric?percent=loose', '2', 0),
  )
  def test_tolerance(self, spec, completion, expected):
    self.assertEqual(scores(spec, completion, '200'), expected)


class MathTest(parameterized.TestCase):

  @parameterized.parameters(
      (r'\frac{1}{2}', '0.5'), (r'\frac{1}{2}', '1/2'),
      (r'\frac{1}{2}', r'\dfrac12'), (r'2\sqrt{3}', r'\sqrt{12}'),
      ('x^2+1', '1+x^2'), ('24', 'x = 24'), ('24', r'24\text{ cm}'),
      ('24', '$24$'), ('(1,2)', '(1, 2)'), ('1,000', '1000'),
      (r'x \le 3', r'(-\infty, 3]'), (r'\text{Monday}', 'Monday'),
      ('1+2i', '2i+1'), ('10!', '3628800'), (r'\frac{7}{2}', r'3\frac{1}{2}'),
      (r'\begin{pmatrix}1\\2\end{pmatrix}',
       r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}'),
      # Compared as text, and never computed.
      (r'9^{9^{9^9}}', r'9^{9^{9^9}}'),
  )
  def test_right(self, answer, inside):
    self.assertEqual(scores('math', rf'So \boxed{{{inside}}}.', answer), 1)

  @parameterized.parameters(
      (r'\frac{1}{2}', '0.51'), ('24', '-24'), ('24', '24, 25'),
      ('24', '25 = 24'), ('24', 'y = 25 = 24'), ('24', r'5 \cdot 5 = 24'),
      ('24', '20 4'), ('24', '(lambda: 24)()'), ('24', 'about 24 or so'),
      ('(1,2)', '(2,1)'), ('(1,2)', '[1,2)'), (r'\pi', '3.14'),
      (r'\text{Monday}', 'Tuesday'), ('x', 'y'), ('', '24'), ('24', 'x'),
  )
  def test_wrong(self, answer, inside):
    self.assertEqual(scores('math', rf'So \boxed{{{inside}}}.', answer), 0)

  @parameterized.parameters(
      '2^{10}', 'e^{x^2}', 'x^{2^{n}}', r'2^{\frac{1}{3}}', '5!', '(n+1)!',
      r'\frac{10!}{3!7!}', '(x+1)^2(x-1)^3', r'\frac{3^{20}}{2}', '1,000,000',
      '2^{-3}', '2^', '9^{9', r'x^{99999}', '', '(x+1)^{100}',
      r'\left(\frac{1}{2}\right)^{1000}',
  )
  def test_what_is_compared(self, answer):
    self.assertEqual(mathematics.excess(answer), '')

  @parameterized.parameters(
      ('9^{9^9}', 'power of a power'), ('9**9**9', 'power of a power'),
      ('(9)^(9)^9', 'power of a power'), ('2^{10!}', 'power of a power'),
      ('9^{9999*9999}', 'power so high'), ('9^{9/0.00001}', 'power so high'),
      ('((9^{999})^{999})', 'power so high'),
      ('(x+1)^{101}', 'polynomial'), ('((x+y)^{99})^2', 'polynomial'),
      ('9^99999', 'power so high'),
      ('10001!', 'factorial'), ('(9!)!', 'factorial'), ('9!!', 'factorial'),
      (r'9^\frac{99999}{1}', 'power so high'), ('(999*999)!', 'factorial'),
      ('1' * 101, 'number so long'), ('x' * 501, 'text so long'),
      ('(' * 21, 'nesting'), (r'\sum_{n=1}^9 n', 'sum'), ('2\x004', 'text'),
  )
  def test_what_is_not(self, answer, cause):
    self.assertIn(cause, mathematics.excess(answer))


class CountdownTest(parameterized.TestCase):

  @parameterized.parameters(
      '(3 + 5) * 2 - 4', '(3+5)*2-4', r'\boxed{(3 + 5) \times 2 - 4}',
      '<answer>(3 + 5) * 2 - 4 = 12</answer>', '2 × (5 + 3) − 4',
      '((((3 + 5))) * (2)) - 4', r'2 \cdot (5+3) - 4',
  )
  def test_right(self, completion):
    self.assertEqual(self._score(completion), 1)

  @parameterized.parameters(
      # Another number, one twice, one not at all, one more; another result.
      '(3 + 5) * 2 - 4 + 0', '12', '3 * 4', '(3 + 5) * 2 - 4 - 4 + 4',
      '(3 + 5) * 2 - 2 * 2', '3 + 5 + 2 + 4', '35 - 24 + 1',
      # Other syntax.
      '-(4 - (3 + 5) * 2)', '+(3 + 5) * 2 - 4', '(3 + 5) * 2 - 04',
      '(3 + 5) * 2 - 4.0', '(3 + 5) * 2 - 4 = 13', '(3 + 5) * 2 = 16 - 4',
      '(3 + 5) * 2 - 4 # 12', '(3 + 5)(2) - 4', '(3 + 5) 2 - 4',
      '(5 ** 2 - 3) // 4', '3, 5, 2, 4', '(3 + 5) * 2 - 4,', '[12][3-5+2-4+4]',
      '(3 + 5) * 2 - 0x4', '(3 + 5) * 2 - 4j', 'max(12, 3 + 5 + 2 + 4)',
      '5 if 3 else 2 - 4', '3 + 5 < 2 * 4', '(3+5)*2-4; import os', '3 / 0',
      '(3 + 5) / (2 - 4 + 2)', '(' * 150 + '3' + ')' * 150,
      '3+5+2+4' + '-0' * 150, '3' * 300,
  )
  def test_wrong(self, completion):
    self.assertEqual(self._score(completion), 0)

  def test_division_is_exact(self):
    # In floating point it makes 23.999999999999996.
    numbers = dict(numbers=[8, 3, 8, 3], target=24)
    self.assertNotEqual(8 / (3 - 8 / 3), 24)
    self.assertEqual(scores('countdown', '8 / (3 - 8 / 3)', **numbers), 1)
    # And here it makes 1, which it is not.
    numbers = dict(numbers=[1, 3 * 10**16, 3 * 10**16 + 1], target=1)
    text = f'{3 * 10**16 + 1} / {3 * 10**16} * 1'
    self.assertEqual((3 * 10**16 + 1) / (3 * 10**16) * 1, 1)
    self.assertEqual(scores('countdown', text, **numbers), 0)

  def test_every_way_to_combine_three_numbers(self):
    # Another arithmetic: operators of Python on integers, by exact division.
    signs = {'+': operator.add, '-': operator.sub, '*': operator.mul}
    seen = set()
    for a, b, c in itertools.permutations((2, 3, 7)):
      for (s, f), (t, g) in itertools.product(signs.items(), repeat=2):
        value = g(f(a, b), c)
        seen.add(value)
        entry = dict(numbers=[7, 2, 3], target=13)
        text = f'({a} {s} {b}) {t} {c}'
        self.assertEqual(scores('countdown', text, **entry), value == 13, text)
    self.assertIn(13, seen)

  def _score(self, completion):
    return scores('countdown', completion, numbers=[2, 3, 4, 5], target=12)


class SpecTest(parameterized.TestCase):

  def test_sum(self):
    spec = '0.75*math+0.25*format?pattern=' + verifiers.quote('.*boxed.+')
    self.assertEqual(scores(spec, r'\boxed{24}', '24'), 1)
    self.assertEqual(scores(spec, r'\boxed{25}', '24'), 0.25)
    self.assertEqual(scores(spec, '24', '24'), 0.75)
    self.assertEqual(scores(spec, '25', '24'), 0)
    score = verifiers.parse(spec)('25', record('24'))
    self.assertIn('25', score.reason)
    self.assertIn('form', score.reason)

  def test_plus_in_a_pattern(self):
    spec = '0.5*exact+0.5*format?pattern=a+b*'
    self.assertEqual(scores(spec, 'aabb', 'x'), 0.5)

  # The reward model is read from a path, and has a test of its own.
  @parameterized.parameters(*sorted({*verifiers.KINDS} - {'reward_model'}))
  def test_pickled(self, name):
    one = f'{name}?pattern=.' if name == 'format' else name
    for spec in (one, f'0.5*{one}+0.5*exact'):
      verify = verifiers.parse(spec)
      self.assertEqual(pickle.loads(pickle.dumps(verify)), verify)

  @parameterized.parameters(
      ('', "no verifier ''.*choice, code, countdown"),
      ('maths', "no verifier 'maths'; did you mean 'math'"),
      ('numeric?tolerence=1', "'tolerence'; did you mean 'tolerance'"),
      ('numeric?tolerance', "'tolerance'.*not KEY=VALUE"),
      ('numeric?tolerance=x', 'tolerance=x.*no float'),
      ('numeric?tolerance=-1', 'tolerance=-1.0 must be'),
      ('numeric?tolerance=nan', 'tolerance=nan must be'),
      ('numeric?percent=maybe', "'strict' or 'loose'"),
      ('exact?ignore_case=1', 'ignore_case=1.*no bool'),
      ('exact?last_line=true&last_line=true', 'given twice'),
      ('code?limits=1', "no option 'limits'"),
      ('format', 'pattern'),
      ('format?pattern=(', 'no regular expression'),
      ('0.9*math', 'sum to 0.9'),
      ('0.9*math+0.2*exact', 'sum to 1.1'),
      ('0.9*math+exact', 'no verifier'),
      ('math+0.1*exact', "'math' has no weight"),
      ('0.5*0.5*math+0.5*exact', "no verifier '0.5"),
      ('nan*math', 'no verifier'),
  )
  def test_bad_spec(self, spec, message):
    with self.assertRaisesRegex(ValueError, message):
      verifiers.parse(spec)

  def test_runs_code(self):
    for spec, expected in (('code', True), ('0.5*exact+0.5*code', True),
                           ('math', False), ('0.5*exact+0.5*math', False)):
      self.assertEqual(verifiers.runs_code(verifiers.parse(spec)), expected)

  def test_limits_reach_the_code_in_a_sum(self):
    limits = tasks.Limits(cpu_seconds=7.0)
    verify = verifiers.confined(verifiers.parse('0.5*exact+0.5*code'), limits)
    self.assertEqual(verify.parts[1][1].limits, limits)
    self.assertEqual(verify.parts[0][1], verifiers.parse('exact'))


class PageTest(absltest.TestCase):

  def test_prints_what_the_page_says(self):
    for source, output in pages.examples(PAGE):
      self.assertEqual(pages.printed(source), output)

  def test_names_every_verifier_and_option(self):
    text = (pages.ROOT / PAGE).read_text()
    for name, kind in verifiers.KINDS.items():
      (row,) = re.findall(rf'^\| `{name}` .*$', text, re.MULTILINE)
      for field in dataclasses.fields(kind):
        # Of all alike, and not for configs.
        if field.name not in ('last_line', 'limits'):
          self.assertIn(f'`{field.name}', row)


class ReasonTest(absltest.TestCase):

  def test_reason_shows_the_answer_and_not_all_of_it(self):
    for name in ('exact', 'numeric', 'math'):
      verify = verifiers.parse(name)
      score = verify(r'\boxed{' + 'z' * 200 + '}', record('24'))
      self.assertTrue(re.search("z{80}'$", score.reason), score)


if __name__ == '__main__':
  absltest.main()

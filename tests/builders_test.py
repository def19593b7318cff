"""Builders of public datasets, on files in the form of the real ones."""

import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from gradlens.tasks import builders
from gradlens.tasks.builders import made_up
from gradlens.tasks.builders import math as math_builder
from gradlens.tasks.sources import open_source

SIZES = made_up.SIZES


def case(name, **attributes):
  """tensorflow-datasets' own test, on records that are made up."""
  builder = builders.find(name)

  class Case(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = builder
    SPLITS = {split: SIZES[split] for split in builder.FILES}
    DL_DOWNLOAD_RESULT = builder.FILES

    @classmethod
    def setUpClass(cls):
      cls.EXAMPLE_DIR = cls.enterClassContext(tempfile.TemporaryDirectory())
      made_up.write(name, cls.EXAMPLE_DIR)
      super().setUpClass()

  for key, value in attributes.items():
    setattr(Case, key, value)
  return Case


# Whose files have checksums that are known.
class Gsm8kTest(case('gsm8k')):
  pass


class ArithmeticTest(case('arithmetic')):
  pass


class MathTest(case('math', SKIP_CHECKSUMS=True)):
  pass


class Math500Test(case('math500', SKIP_CHECKSUMS=True)):
  pass


class CountdownTest(case('countdown', SKIP_CHECKSUMS=True)):
  pass


class FinQaTest(case('finqa', SKIP_CHECKSUMS=True)):
  pass


class DeepScalerTest(case('deepscaler', SKIP_CHECKSUMS=True)):
  pass


class R1CodeTest(case('r1_code', SKIP_CHECKSUMS=True)):

  def setUp(self):
    super().setUp()
    # The hub's client fetches the files that it has.
    fetch = mock.patch('huggingface_hub.snapshot_download')
    self.enterContext(fetch).return_value = self.EXAMPLE_DIR


def write(path: pathlib.Path, records):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    pq.write_table(pa.Table.from_pylist(records), path)
  elif path.suffix == '.json':
    path.write_text(json.dumps(records))
  else:
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


# Records as the real files have them, and the rows that a reader would make.
RECORDS = dict(
    gsm8k=(
        dict(question='How much?', answer='1 + 2 = <<1+2=3>>3\n#### 1,203'),
        ('How much?', '1203', {}),
    ),
    math=(
        dict(problem='P?', level='Level 5', type='Geometry',
             solution=r'First $\boxed{0}$, then $\boxed{\frac{1}{2}}$.'),
        ('P?', r'\frac{1}{2}', dict(subject='Geometry', level='Level 5')),
    ),
    math500=(
        dict(problem='P?', solution=r'$\boxed{x}$', answer='x', level=2,
             subject='Algebra', unique_id='test/algebra/1.json'),
        ('P?', 'x', dict(subject='Algebra', level=2)),
    ),
    countdown=(
        dict(target=98, nums=[44, 19, 35]),
        ('Using each of the numbers 44, 19, 35 exactly once, and + - * / with '
         'brackets, write an expression that equals 98.', '',
         dict(numbers=[44, 19, 35], target=98)),
    ),
    finqa=(
        dict(pre_text=['one .', 'two .'], post_text=['three .'], id='a-1',
             filename='a', table=[['', '2001'], ['cash', '$ 5']],
             qa=dict(question='cash ?', answer='14%', exe_ans=0.14136,
                     program='divide(a, b)')),
        ('one . two .\n\n| 2001\ncash | $ 5\n\nthree .\n\ncash ?', '0.14136',
         dict(stated='14%')),
    ),
    deepscaler=(
        dict(problem='P?', answer=r'-\frac{2}{3}', solution='So.'),
        ('P?', r'-\frac{2}{3}', {}),
    ),
    arithmetic=(
        dict(context='\n\nQ: What is (9 + 8) * 2?\n\nA:', completion=' 34'),
        ('What is (9 + 8) * 2?', '34', {}),
    ),
    r1_code=(
        dict(problem_statement='Add.', gold_standard_solution='print(3)',
             verification_info=dict(language='python', test_cases=[
                 dict(fn_name=None, input='1 2', output='3',
                      type='stdin_stdout')])),
        ('Add.', '',
         dict(tests=[dict(stdin='1 2', stdout='3')], solution='print(3)')),
    ),
)


class RowsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def rows(self, name, record):
    builder = builders.find(name)
    path = self.folder / builder.FILES[list(builder.FILES)[0]][0]
    path = path.with_name(path.name.replace('*', '0'))
    write(path, [record])
    return list(
        builder(data_dir=self.folder / 'prepared').rows(epath.Path(path)))

  def test_every_builder_has_a_case(self):
    self.assertCountEqual(RECORDS, builders.BUILDERS)

  @parameterized.parameters(*RECORDS)
  def test_row(self, name):
    record, expected = RECORDS[name]
    self.assertEqual(self.rows(name, record), [expected])

  def test_tests_that_cannot_be_run_are_left_out(self):
    record, _ = RECORDS['r1_code']
    [test] = record['verification_info']['test_cases']
    calls = dict(test, type='function_call', fn_name='add')
    for tests in ([test, calls], [test, dict(test, output=None)], []):
      info = dict(language='python', test_cases=tests)
      self.assertEmpty(
          self.rows('r1_code', dict(record, verification_info=info)))

  @parameterized.parameters(
      ('gsm8k', dict(answer='Unknown.')), ('deepscaler', dict(answer=None)),
      ('math', dict(solution='It is one.')),
  )
  def test_no_answer_is_an_empty_one(self, name, changes):
    record, expected = RECORDS[name]
    [row] = self.rows(name, record | changes)
    self.assertEqual(row, (expected[0], '', expected[2]))

  @parameterized.parameters(
      (r'\boxed{\{1, \{2\}\}}', r'\{1, \{2\}\}'), (r'is $\boxed 7$.', '7'),
      (r'\fbox{3}', '3'), ('7', ''), (r'\boxed{7', ''),
      (r'\boxed{1} and \boxed{}', ''),
  )
  def test_boxed(self, solution, expected):
    self.assertEqual(math_builder.boxed(solution), expected)

  @parameterized.parameters(
      ('gsm8k', 'train.jsonl', 30, 'train.jsonl, line 1: not JSON, or cut off'),
      ('math', 'algebra/train-00000-of-00001.parquet', 99,
       'algebra/train-00000-of-00001.parquet is no parquet file, or cut off'),
      ('finqa', 'train.json', 70, 'train.json: not JSON, or cut off'),
  )
  def test_file_that_is_cut_off(self, name, path, size, message):
    made_up.write(name, self.folder)
    data = (self.folder / path).read_bytes()
    (self.folder / path).write_bytes(data[:size])
    with self.assertRaisesRegex(ValueError, message):
      open_source(
          f'tfds:{name}?files={self.folder}&data_dir={self.folder}/prepared',
          seed=0, num_draws=1)

  def test_file_of_another_form(self):
    made_up.write('deepscaler', self.folder)
    path = self.folder / 'deepscaler.json'
    records = json.loads(path.read_text())
    del records[2]['problem']
    write(path, records)
    with self.assertRaisesRegex(
        ValueError, r"deepscaler.json, after 2 records: .* no field 'problem'"):
      open_source(
          f'tfds:deepscaler?files={self.folder}&data_dir={self.folder}/prepared',
          seed=0, num_draws=1)


class SourceTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def open(self, what):
    return open_source(
        f'tfds:{what}&data_dir={self.folder}/prepared', seed=0, num_draws=1)

  def test_reads_what_the_builder_made_at_random(self):
    made_up.write('countdown', self.folder)
    path = self.folder / 'data' / 'train-00000-of-00001.parquet'
    expected = {
        (row['target'], tuple(row['nums']))
        for row in pq.read_table(path).to_pylist()}
    self.assertLen(expected, SIZES['train'])
    source = self.open(f'countdown?files={self.folder}')
    self.assertLen(source.rows, SIZES['train'])
    order = [7, 3, *range(SIZES['train']), 3]
    rows = [source.rows[i] for i in order]
    self.assertEqual(rows[0], rows[2 + 7])
    self.assertEqual(rows[1], rows[-1])
    self.assertEqual(
        {(row.entry['target'], tuple(row.entry['numbers'])) for row in rows},
        expected)
    self.assertEqual(source.verify, 'countdown')
    self.assertFalse(source.answers)
    self.assertIsNone(source.heldout)
    [written, *_] = (self.folder / 'prepared').rglob('*train*')
    self.assertIn('array_record', written.name)

  def test_held_out_split_of_another_dataset(self):
    source = self.open('math?files=made_up&heldout=math500:test')
    self.assertLen(source.rows, SIZES['train'])
    self.assertLen(source.heldout, SIZES['test'])
    tests = self.open('math?files=made_up&split=test&heldout=train')
    of_math = {row.question for row in tests.rows}
    # Some of them are MATH's own, and none of those that are trained on.
    heldout = {row.question for row in source.heldout}
    self.assertNotEmpty(of_math & heldout)
    self.assertNotEmpty(heldout - of_math)
    self.assertNoCommonElements(
        {row.question for row in source.rows}, heldout)

  def test_other_files_are_not_what_was_prepared(self):
    made_up.write('gsm8k', self.folder)
    before = self.open(f'gsm8k?files={self.folder}').heldout[0]
    record = dict(question='New?', answer='#### 1')
    write(self.folder / 'test.jsonl', [record])
    after = self.open(f'gsm8k?files={self.folder}').heldout
    self.assertLen(after, 1)
    self.assertEqual(after[0].question, 'New?')
    self.assertNotEqual(before.question, 'New?')

  def test_somebody_else_s_dataset(self):
    class Letters(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(dict(
                ask=tfds.features.Text(), number=tfds.features.Scalar(np.int32),
                more=dict(options=tfds.features.Sequence(
                    tfds.features.Text())))))

      def _split_generators(self, dl_manager):
        del dl_manager
        return dict(train=self._generate_examples())

      def _generate_examples(self):
        for i in range(5):
          yield i, dict(
              ask=f'é{i}', number=i, more=dict(options=['a', 'b']))

    source = self.open(
        f'{Letters.name}?prompt=ask&answer=number&choices=more.options')
    self.assertCountEqual(
        [source.rows[i] for i in range(5)],
        [(f'é{i}', str(i), dict(choices=['a', 'b'])) for i in range(5)])
    self.assertEqual(source.verify, 'choice')

  @parameterized.parameters(
      ('nothing?a=b', 'none of our datasets, arithmetic, .*prompt=COLUMN'),
      ('nothing?prompt=a&answer=b', "no dataset 'nothing', and ours are arith"),
      ('gsm8k?prompt=a', "no parameter 'prompt'; it has split, heldout"),
      ('gsm8k?files=made_up&split=dev', "no split 'dev'; it has train, test"),
      ('gsm8k?files=made_up&heldout=dev', "no split 'dev'; it has train, test"),
      ('math500?files=made_up', "split='test' to train on and to hold out"),
      ('gsm8k?heldout=gsm9k:test', "'gsm9k:test'.*names none of our datasets"),
      ('gsm8k?files=/nowhere', "'/nowhere' is to have the file train.jsonl"),
      ('r1_code?files=/nowhere', 'no file data/train-.*parquet in /nowhere'),
      ('mnist?prompt=a&answer=b&files=c', 'files= is for our datasets'),
      ('gsm8k?files=made_up&max_chars=-1', 'max_chars=-1 is no count'),
  )
  def test_refuses(self, what, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      self.open(what)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(
      OSError('no route to host'),
      tfds.core.download.DownloadError('no route to host'),
      tfds.core.download.download_manager.NonMatchingChecksumError(
          'no route to host'),
  )
  def test_without_a_network(self, error):
    with mock.patch.object(
        tfds.core.download.DownloadManager, 'download', side_effect=error):
      with self.assertRaisesRegex(
          ValueError, "cannot prepare dataset 'gsm8k': no route to host.*files="
      ):
        self.open('gsm8k?')

  def test_another_process_was_faster(self):
    prepare = tfds.core.DatasetBuilder.download_and_prepare

    def late(builder, **kwargs):
      prepare(builder, **kwargs)
      raise OSError('Directory not empty')

    with mock.patch.object(
        tfds.core.DatasetBuilder, 'download_and_prepare', late):
      source = self.open('gsm8k?files=made_up')
    self.assertLen(source.rows, SIZES['train'])


if __name__ == '__main__':
  absltest.main()

"""Files as sources: column maps, the split, and what is dropped or refused."""

import json
import math
import pathlib
import re
from unittest import mock

from absl.testing import absltest, parameterized
import grain
import ml_collections
import pages
import pyarrow as pa
import pyarrow.parquet as pq
import tiny_config

from gradlens import mixture, tasks
from gradlens.setup import build
from gradlens.tasks import builders, verifiers
from gradlens.tasks.sources import entries, open_source


def normal(prompt):
  return ' '.join(prompt.casefold().split())


def prompts(records):
  return {normal(record.prompt) for record in records}


class FilesCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    # What is named is told by `mock.call`.
    self.parse = self.enterContext(
        mock.patch.object(verifiers, 'parse', side_effect=verifiers.parse))

  def write(self, records, name='a.jsonl'):
    path = self.folder / name
    if path.suffix == '.parquet':
      pq.write_table(pa.Table.from_pylist(records), path)
    else:
      path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path

  def load(self, source, **changes):
    arguments = dict(
        pattern='', template='{question}', num_train=10_000,
        num_heldout=10_000, seed=0)
    return tasks.load('sums', str(source), **arguments | changes)


def sums(numbers):
  return [dict(prompt=f'{n} + 1', answer=n + 1) for n in numbers]


class ReadTest(FilesCase):

  def test_parquet_is_as_jsonl(self):
    records = [
        {'q q': dict(text=f'é{n}'), 'a': n / 2, 'numbers': [n, 1],
         'goal': n, 'more': 'x'}
        for n in range(40)]
    query = 'prompt=q%20q.text&answer=a&numbers=numbers&target=goal&level=more'
    tasks_of = [
        self.load(f'{name}:{self.write(records, f"a.{name}")}?{query}')
        for name in ('jsonl', 'parquet')]
    self.assertEqual(*tasks_of)
    task = tasks_of[0]
    self.assertCountEqual(
        task.train + task.heldout,
        [(f'é{n}', str(n / 2), dict(numbers=[n, 1], target=n, level='x'))
         for n in range(40)])

  def test_rows_come_in_any_order_and_end(self):
    for name in ('jsonl', 'parquet'):
      path = self.write(sums(range(5)), f'a.{name}')
      rows = open_source(f'{name}:{path}', seed=0, num_draws=1).rows
      self.assertEqual(
          [rows[i].question for i in (3, 0, 3)], ['3 + 1', '0 + 1', '3 + 1'])
      self.assertEqual([row.answer for row in rows], list('12345'))
      # What grain asks of a source.
      self.assertLen(list(grain.MapDataset.source(rows).shuffle(seed=1)), 5)

  def test_lists_in_texts_are_read_as_json(self):
    records = [dict(prompt=str(n), tests='[{"input": "1", "output": "2"}]',
                    nums='[3, 4]') for n in range(20)]
    task = self.load(
        f'jsonl:{self.write(records)}?answer=&tests=tests&numbers=nums')
    self.assertEqual(
        task.train[0].entry,
        dict(tests=[dict(stdin='1', stdout='2')], numbers=[3, 4]))

  def test_template_of_columns(self):
    records = [dict(prompt=f'q{n}', answer='x', nums=[n, 2])
               for n in range(20)]
    path = self.write(records)
    task = self.load(
        f'jsonl:{path}?numbers=nums', pattern=r'q(?P<n>\d+)',
        template='{question}: {numbers}, {n}, {0}')
    self.assertCountEqual(
        [r.prompt for r in task.train + task.heldout],
        [f'q{n}: [{n}, 2], {n}, {n}' for n in range(20)])

  @parameterized.parameters(
      ('', 'exact'), ('tests=t', 'code'), ('choices=c', 'choice'),
      ('numbers=n&target=g', 'countdown'), ('numbers=n', 'exact'),
  )
  def test_verifier_of_its_own(self, query, expected):
    record = dict(answer='A', t=['assert True'], c=['a', 'b'], n=[1], g=1)
    path = self.write([dict(record, prompt=str(n)) for n in range(20)])
    self.load(f'jsonl:{path}?{query}')
    self.assertEqual(self.parse.mock_calls, [mock.call(expected)])

  def test_verifier_that_is_asked_for(self):
    path = self.write(sums(range(20)))
    task = self.load(f'jsonl:{path}', verifier='numeric?tolerance=0.1')
    self.assertEqual(
        self.parse.mock_calls, [mock.call('numeric?tolerance=0.1')])
    self.assertEqual(task.verify, verifiers.KINDS['numeric'](tolerance=0.1))
    with self.assertRaisesRegex(
        ValueError, "^task 'sums': there is no verifier 'nonsense'"):
      self.load(f'jsonl:{path}', verifier='nonsense')

  def test_verifier_instead_of_reasoning_gym_s(self):
    task = tasks.load(
        'reverse', 'rg:spell_backward', pattern=r': (\w+)$', template='{0}',
        num_train=768, num_heldout=256, seed=0, verifier='exact')
    self.assertEqual(task.verify, verifiers.parse('exact'))


class SplitTest(FilesCase):

  @parameterized.parameters(
      {'seed': 1}, {'num_train': 50}, {'num_heldout': 9},
      {'num_train': 100, 'num_heldout': 30, 'seed': 2},
  )
  def test_no_prompt_changes_sides(self, **changes):
    source = f'jsonl:{self.write(sums(range(400)))}'
    one, other = self.load(source), self.load(source, **changes)
    self.assertEmpty(prompts(one.train) & prompts(other.heldout))
    self.assertEmpty(prompts(one.heldout) & prompts(other.train))
    self.assertLen(one.train + one.heldout, 400)
    # A quarter, give or take four standard deviations, sqrt(400 * 3) / 4.
    self.assertBetween(len(one.heldout), 100 - 35, 100 + 35)
    for side, size in (('train', 'num_train'), ('heldout', 'num_heldout')):
      if size in changes:
        self.assertLen(getattr(other, side), changes[size])

  def test_seed_chooses_among_the_records(self):
    source = f'jsonl:{self.write(sums(range(400)))}'
    first, again, other = [
        self.load(source, num_train=50, seed=seed) for seed in (0, 0, 1)]
    self.assertEqual(first, again)
    self.assertNotEqual(prompts(first.train), prompts(other.train))

  def test_nothing_held_out_is_trained_on(self):
    train = self.write(sums(range(100)), 'train.jsonl')
    # The same but for case and blanks, and more than are asked for.
    heldout = self.write(
        [dict(prompt=f' {n}  +  1\n', answer='') for n in range(90)]
        + [dict(prompt=f' {n} +\t1', answer=n + 1) for n in range(60, 150)],
        'heldout.jsonl')
    with self.assertLogs(level='WARNING') as logs:
      task = self.load(
          f'jsonl:{train}?heldout={heldout}', num_heldout=20)
    self.assertEqual(prompts(task.train), {f'{n} + 1' for n in range(60)})
    self.assertLen(task.heldout, 20)
    self.assertContainsSubset(
        prompts(task.heldout), {f'{n} + 1' for n in range(60, 150)})
    self.assertIn(
        "Task 'sums' has 60 records to train on and 20 held out (10000 and 20 "
        'asked for), of 280 read; dropped: 40 in the held-out data, '
        '90 without an answer.', logs.output[0])

  def test_held_out_data_are_the_same_for_every_seed(self):
    train = self.write(sums(range(100)), 'train.jsonl')
    heldout = self.write(sums(range(1000, 1100)), 'heldout.jsonl')
    few, other, more = [
        self.load(f'jsonl:{train}?heldout={heldout}', num_heldout=n, seed=seed)
        for n, seed in ((20, 0), (20, 1), (40, 0))]
    self.assertEqual(few.heldout, other.heldout)
    self.assertContainsSubset(prompts(few.heldout), prompts(more.heldout))
    # The file may be sorted: its first lines are no fair sample.
    self.assertNotEqual(
        prompts(few.heldout), {f'{n} + 1' for n in range(1000, 1020)})

  def test_what_is_of_no_use_is_dropped_and_counted(self):
    records = sums(range(100))
    records += [dict(prompt='0  + 1', answer=1)] * 3  # Repeats.
    records += [dict(prompt='1 + 1', answer=3)]
    records += [dict(prompt=None, answer=1), dict(prompt=' ', answer=1)]
    records += [dict(prompt='x', answer=a) for a in (None, '', ' ', math.nan)]
    records += [dict(prompt='y' * 11, answer=1)]
    with self.assertLogs(level='WARNING') as logs:
      task = self.load(f'jsonl:{self.write(records)}?max_chars=10')
    self.assertEqual(
        prompts(task.train + task.heldout), {f'{n} + 1' for n in range(100)})
    self.assertRegex(
        logs.output[0],
        'of 111 read; dropped: 1 longer than 10 characters, 3 repeated, '
        '1 repeated with another answer, 2 without a question, 4 without an '
        r'answer\.')

  def test_nothing_is_said_against_good_data(self):
    source = f'jsonl:{self.write(sums(range(100)))}'
    with self.assertNoLogs(level='WARNING'):
      self.load(source)

  def test_nothing_is_left(self):
    records = [dict(prompt='x', answer='1')] * 20
    with self.assertRaisesRegex(
        ValueError, r"^task 'sums': .*a.jsonl' gives .* 19 repeated; give it "
        'more records, or held-out data'):
      self.load(f'jsonl:{self.write(records)}')

  def test_fingerprint_tells_tests_apart(self):
    def task(stdout):
      test = dict(stdin='', stdout=stdout)
      path = self.write(
          [dict(prompt=str(n), tests=[test]) for n in range(20)])
      return self.load(f'jsonl:{path}?answer=&tests=tests')

    found = [tasks.fingerprint(task(stdout)) for stdout in 'aab']
    self.assertEqual(found[0], found[1])
    self.assertNotEqual(found[0], found[2])

  def test_file_that_changed_is_no_resuming(self):
    source = f'jsonl:{self.write(sums(range(100)))}'
    state = mixture.Mixture([self.load(source)], 4, seed=0).init()
    same = mixture.Mixture([self.load(source)], 4, seed=0)
    self.assertEqual(same.restore(state), state)
    self.write(sums([*range(99), 500]))
    changed = mixture.Mixture([self.load(source)], 4, seed=0)
    with self.assertRaisesRegex(ValueError, 'the checkpoint was written with'):
      changed.restore(state)


class RefusedTest(FilesCase):

  def setUp(self):
    super().setUp()
    self.path = self.write(sums(range(50)))

  @parameterized.parameters(
      (b'{"prompt": "1"\n', r'line 1: not JSON; mend the line or take it out'),
      (b'{"prompt": "1", "answer": 1}\n{"prompt": "2", "ans',
       'is cut off in line 2; copy the file again'),
      (b'[' * 100_000 + b'\n', 'line 1: not JSON; mend the line'),
      (b'{"prompt": "\\ud800", "answer": 1}\n',
       "line 1: column 'prompt' is no text"),
      (b'\n\n[1]\n', r'line 3: no object with names but \[1\]'),
      (b'{"prompt": "\xff", "answer": 1}\n', 'line 1: not UTF-8'),
      (b'{"promt": "1", "answer": 1}\n',
       "line 1: there is no column 'prompt'; did you mean 'promt'.; there are "
       r'answer, promt; say which is meant, as in \?prompt=COLUMN'),
      (b'{"prompt": ["1"], "answer": 1}\n',
       r"line 1: column 'prompt' holds \['1'\], which is neither text"),
      (b'{"prompt": "1", "answer": {"a": 1}}\n', "line 1: column 'answer'"),
      (b'', 'has no records'), (b' \n\n', 'has no records'),
  )
  def test_file(self, content, message):
    self.path.write_bytes(content)
    with self.assertRaisesRegex(ValueError, f"^task 'sums': .*{message}") as c:
      self.load(f'jsonl:{self.path}')
    self.assertIn(str(self.path), str(c.exception))
    self.assertNotIn('\n', str(c.exception))

  @parameterized.parameters(
      ('numbers', 'one', 'no list written as JSON'),
      ('numbers', [1, 2.5], 'not whole numbers'), ('numbers', [], 'no list'),
      ('numbers', [True], 'not whole numbers'), ('numbers', None, 'no list'),
      ('target', '7', 'no whole number'), ('target', True, 'no whole number'),
      ('choices', ['a'], 'not two texts'), ('choices', [1, 2], 'not two texts'),
      ('choices', '"ab"', 'no list'),
      ('tests', [dict(stdin='')], 'neither an assertion'),
      ('tests', [dict(stdin=1, stdout='')], 'neither an assertion'),
      ('tests', [3], 'neither an assertion'), ('tests', {}, 'no list'),
  )
  def test_what_a_verifier_needs(self, name, value, message):
    self.write([dict(prompt='1', answer='1', column=value)])
    with self.assertRaisesRegex(ValueError, f'line 1: .*{message}'):
      self.load(f'jsonl:{self.path}?{name}=column')

  def test_parquet(self):
    path = self.write(sums(range(50)), 'a.parquet')
    data = path.read_bytes()
    for content in (data[:-30], data[: len(data) // 2], b'PAR1', b''):
      path.write_bytes(content)
      with self.assertRaisesRegex(
          ValueError, r'a\.parquet is no parquet file, or cut off; copy it'):
        self.load(f'parquet:{path}')
    path.write_bytes(data)
    with self.assertRaisesRegex(
        ValueError, "no column 'level'; it has prompt, answer"):
      self.load(f'parquet:{path}?level=level')
    self.write(sums([]) + [dict(prompt='1', answer=dict(a=1))], 'a.parquet')
    with self.assertRaisesRegex(ValueError, "record 1: column 'answer' holds"):
      self.load(f'parquet:{path}')

  @parameterized.parameters(
      ('jsonl:/nowhere/a.jsonl', "cannot read the file '/nowhere/a.jsonl'"),
      ('parquet:/nowhere/a', "cannot read the file '/nowhere/a'"),
      ('jsonl:{}?heldout=/nowhere/b', "cannot read the file '/nowhere/b'"),
      ('jsonl:{}?answer', "parameter 'answer' of .* is not KEY=VALUE"),
      ('jsonl:{}?answer=a&answer=b', "parameter 'answer' of .* given twice"),
      ('jsonl:{}?max_chars=many', 'max_chars=many is no count'),
      ('json:{}', "unknown scheme 'json'.*one of rg:, jsonl:"),
  )
  def test_source(self, source, message):
    with self.assertRaisesRegex(ValueError, f"^task 'sums': .*{message}"):
      self.load(source.format(self.path))

  @parameterized.parameters(
      ({'num_train': 0}, 'num_train=0 and num_heldout=10000 must be 1 or more'),
      ({'num_heldout': -1}, 'num_heldout=-1 must be 1 or more'),
      ({'template': '{level}'}, "template '{level}' does not fit pattern '', "
       'which has 0 groups, numbered from 0, and a record with the names ques'),
      ({'pattern': 'x'}, "pattern 'x' does not match the question"),
  )
  def test_argument(self, changes, message):
    with self.assertRaisesRegex(ValueError, re.escape(message)):
      self.load(f'jsonl:{self.path}', **changes)

  @parameterized.parameters(
      # Without the fields, every completion would raise a KeyError.
      ('', 'code', "its entry has no 'tests'"),
      ('', 'countdown', "its entry has no 'numbers'"),
      ('&numbers=nums', 'countdown', "its entry has no 'target'"),
      ('', 'choice', "its entry has no 'choices'"),
      ('&choices=c', '', "'3' is none of the letters of the 2 choices"),
      ('&tests=t', '', "'assert \\(' is no Python"),
      ('&tests=u', '', "'x = 1' asserts nothing"),
      # Nothing equals no answer.
      ('&answer=', 'math', 'it has no answer'),
      ('&answer=', 'numeric', 'it has no answer'),
      ('&answer=', 'exact', 'it has no answer'),
      ('&answer=', '', 'it has no answer'),
      ('&answer=', '0.9*math+0.1*format?pattern=.*', 'it has no answer'),
      ('', '0.5*exact+0.5*code', "its entry has no 'tests'"),
  )
  def test_verifier_that_finds_nothing_right(self, query, verifier, message):
    records = sums(range(20))
    # The last one only, for which all others have to be read.
    for n, record in enumerate(records):
      last = n == 19
      record.update(
          answer='3' if last else 'A', nums=[1], c=['a', 'b'],
          t=['assert (' if last else 'assert 1'],
          u=['x = 1' if last else 'assert 1'])
    path = self.write(records)
    shown = 19 if query in ('&choices=c', '&tests=t', '&tests=u') else r'\d+'
    with self.assertRaisesRegex(
        ValueError, f"^task 'sums': the verifier .*'{shown} \\+ 1'.*{message}"
    ) as caught:
      self.load(f'jsonl:{path}?{query}', verifier=verifier)
    self.assertNotIn('\n', str(caught.exception))

  def test_verifiers_that_need_nothing_of_an_entry(self):
    path = self.write(sums(range(20)))
    for source in (f'jsonl:{path}?answer=', f'jsonl:{path}'):
      task = self.load(source, verifier='format?pattern=.*')
      self.assertLen(task.train + task.heldout, 20)

  def test_fields_that_nobody_knows_stay(self):
    entry = dict(level=None, tags=['a'], deep=dict(a=1))
    self.assertEqual(entries.checked(entry), entry)


class ConfigTest(FilesCase):

  def config(self, **specs):
    config = tiny_config.get_config()
    with config.unlocked():
      config.tasks = ml_collections.ConfigDict(specs)
    return config

  def spec(self, records, query='', **keys):
    source = f'jsonl:{self.write(records)}{query}'
    return dict(source=source, pattern='', template='{question}', **keys)

  def test_loads_with_the_verifier_that_is_named(self):
    [task] = build.load_tasks(
        self.config(a=self.spec(sums(range(50)), verifier='numeric')))
    self.assertEqual(self.parse.mock_calls, [mock.call('numeric')])
    self.assertLen(task.train + task.heldout, 50)

  def test_what_one_task_holds_out_no_other_trains_on(self):
    train = self.write(sums(range(60)), 'train.jsonl')
    heldout = self.write(sums(range(100, 150)), 'heldout.jsonl')
    other = self.write(
        [dict(prompt=f'{n}  +  1', answer=n + 1) for n in range(140, 200)],
        'other.jsonl')
    spec = dict(pattern='', template='{question}')
    config = self.config(
        a=dict(spec, source=f'jsonl:{train}?heldout={heldout}'),
        b=dict(spec, source=f'jsonl:{other}'))
    with self.assertLogs(level='WARNING') as logs:
      a, b = build.load_tasks(config)
    self.assertLen(a.train, 60)
    self.assertLen(a.heldout, 50)
    alone = self.load(f'jsonl:{other}', num_train=768, num_heldout=256)
    held = prompts(a.heldout) & prompts(alone.train)
    self.assertNotEmpty(held)
    self.assertEqual(prompts(b.train), prompts(alone.train) - held)
    self.assertEqual(b.heldout, alone.heldout)
    self.assertIn(
        f"Task 'b' does not train on {len(held)} records that other tasks hold "
        'out.', logs.output[-1])
    config.tasks.b.source = f'jsonl:{heldout}?heldout={train}'
    with self.assertRaisesRegex(
        ValueError, "all 60 records of task 'a' are held out by other tasks"):
      build.load_tasks(config)

  def test_refuses_unknown_keys(self):
    with self.assertRaisesRegex(
        ValueError, 'config.tasks.a has the keys .*verify; give it source'):
      build.load_tasks(
          self.config(a=self.spec(sums(range(50)), verify='numeric')))

  def test_refuses_names_alike(self):
    spec = self.spec(sums(range(50)))
    with self.assertRaisesRegex(
        ValueError, "differ in case only, as 'Sums'; rename one"):
      build.load_tasks(self.config(Sums=spec, sums=spec))

  def test_supervised_steps_need_answers(self):
    records = [dict(prompt=str(n), tests=['assert f']) for n in range(50)]
    config = self.config(code=self.spec(records, '?answer=&tests=tests'))
    build.load_tasks(config)
    config.objective = 'supervised'
    with self.assertRaisesRegex(
        ValueError, "reference answers.* task 'code' has none"):
      build.load_tasks(config)


class DocsTest(FilesCase):

  def test_example_loads_from_made_up_records(self):
    [example] = pages.blocks('docs/tasks.md', 'python')
    config = tiny_config.get_config()
    with config.unlocked():
      exec(example, dict(c=config, ml_collections=ml_collections))
    for spec in config.tasks.values():
      spec.source += '&' if '?' in spec.source else '?'
      spec.source += f'files=made_up&data_dir={self.folder}'
    # A config sorts its keys.
    code, countdown, finqa, math_ = build.load_tasks(config)
    self.assertCountEqual(
        self.parse.mock_calls,
        map(mock.call, ('code', 'countdown', 'math', 'numeric?tolerance=0.02')))
    self.assertEndsWith(code.train[0].prompt, '\n\nWrite a Python program.')
    self.assertEndsWith(math_.train[0].prompt, r'final answer in \boxed{}.')
    self.assertIn('target', countdown.train[0].entry)
    self.assertIn('sales grow', finqa.train[0].prompt)
    for task in (code, countdown):
      # Of 384 records; a quarter is held out.
      self.assertLen(task.train + task.heldout, 384)
    for task in (math_, finqa):
      self.assertLen(task.train, 384)
      self.assertLen(task.heldout, 96)

  def test_page_lists_every_dataset(self):
    page = (pages.ROOT / 'docs/tasks.md').read_text()
    found = re.findall(r'^\| `(\w+)` \|.* (.*) \| `(.*)` \|$', page, re.M)
    self.assertCountEqual([name for name, _, _ in found], builders.BUILDERS)
    for name, _, verifier in found:
      self.assertEqual(builders.find(name).VERIFIER, verifier)


if __name__ == '__main__':
  absltest.main()

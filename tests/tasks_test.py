"""Loading tasks: distinct prompts, a split that stays, and what is refused."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from gradlens import tasks
from gradlens.tasks import reasoning_gym, template

SPELL = 'rg:spell_backward?min_word_len=3&max_word_len=5'


def load(source=SPELL, **changes):
  arguments = {
      'pattern': r': (\w+)$', 'template': 'reverse {0}=', 'num_train': 768,
      'num_heldout': 256, 'seed': 0,
  }
  return tasks.load('name', source, **arguments | changes)


def whole(source, **changes):
  return load(source, pattern=r'(?s)(.*)', template='{0}', **changes)


def prompts(records):
  return {' '.join(r.prompt.casefold().split()) for r in records}


class LoadTest(parameterized.TestCase):

  @parameterized.parameters((768, 256), (900, 300), (1024, 512), (4000, 256))
  def test_split_has_the_sizes_asked_for(self, num_train, num_heldout):
    task = load(num_train=num_train, num_heldout=num_heldout)
    self.assertLen(task.train, num_train)
    self.assertLen(task.heldout, num_heldout)
    # Distinct even where case is all that differs, as it is in the word list:
    # the verifier takes no notice of case.
    train, heldout = prompts(task.train), prompts(task.heldout)
    self.assertLen(train, num_train)
    self.assertLen(heldout, num_heldout)
    self.assertEmpty(train & heldout)

  def test_records_are_the_questions_cut_to_the_payload(self):
    for record in load().heldout:
      word = record.prompt.removeprefix('reverse ').removesuffix('=')
      self.assertEqual(record.answer, word[::-1])
      self.assertEndsWith(record.entry['question'], f': {word}')

  @parameterized.parameters(
      {'seed': 1}, {'num_train': 6000}, {'num_heldout': 1000},
      {'num_train': 1500, 'num_heldout': 600, 'seed': 2},
  )
  def test_no_prompt_changes_sides(self, **changes):
    one, other = load(), load(**changes)
    self.assertEmpty(prompts(one.train) & prompts(other.heldout))
    self.assertEmpty(prompts(one.heldout) & prompts(other.train))
    # Other prompts were drawn, so that there was something to find.
    self.assertFalse(
        prompts(one.train) == prompts(other.train)
        and prompts(one.heldout) == prompts(other.heldout))

  def test_every_prompt_of_a_small_task_is_used(self):
    # Programs of five out of four tokens: 4 ** 5.
    task = load(
        'rg:ab?length=5', pattern=r'program:\n\n(.+)\n\n', template='{0}')
    self.assertLen(prompts(task.train) | prompts(task.heldout), 1024)

  def test_task_that_is_too_small(self):
    # 10 * 10 pairs of digits, with + or -.
    with self.assertRaisesRegex(
        ValueError, r"task 'name'.*chain_sum.*holds 200 distinct prompts"
        '.* 1024 asked'):
      whole('rg:chain_sum?max_terms=2&max_digits=1')

  def test_other_process_loads_the_same(self):
    code = f"""
import tasks_test
from gradlens import tasks
print(tasks.fingerprint(tasks_test.load({SPELL!r})))
"""
    path = [str(pathlib.Path(__file__).parent), *sys.path]
    out = subprocess.run(
        [sys.executable, '-c', code], check=True, text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONHASHSEED': '7',
             'PYTHONPATH': os.pathsep.join(path)},
    ).stdout
    self.assertEqual(out.strip(), tasks.fingerprint(load()))

  def test_fingerprint(self):
    task = load()
    first = task.train[0]
    others = [
        load(seed=1),
        task._replace(train=task.heldout, heldout=task.train),
        task._replace(train=[first._replace(answer='x'), *task.train[1:]]),
    ]
    found = {tasks.fingerprint(t) for t in (task, *others, load())}
    self.assertLen(found, 1 + len(others))

  def test_verifier_is_the_dataset_s_own(self):
    task = whole('rg:palindrome_generation?min_length=4&max_length=4')
    record = task.train[0]
    a, b = record.answer[:2]
    # Another palindrome of the same letters is as good as the reference.
    self.assertEqual(task.verify(b + a + a + b, record), 1.0)
    self.assertEqual(task.verify('xx', record), 0.05)
    self.assertEqual(task.verify('', record), 0.0)

  def test_parameters_have_the_type_of_their_defaults(self):
    # A tuple of strings, a list of floats and ints; a blank; a float.
    entry = whole(
        'rg:complex_arithmetic?operations=*,-&operations_weights=0,1'
        '&max_real=3').train[0].entry
    self.assertEqual(entry['metadata']['operation'], '-')
    words = load(
        'rg:caesar_cipher?delimiter=%20&min_words=1&max_words=1',
        pattern=r'text: (\w+)\.', template='{0}')
    self.assertLen(prompts(words.train), 768)
    chain = whole('rg:chain_sum?allow_negation=true&max_terms=2')
    self.assertTrue(any('-' in r.answer[1:] or r.prompt.count('-') > 1
                        for r in chain.train))

  @parameterized.parameters(
      ({'num_train': 767}, 'num_train=767 and num_heldout=256.*1024 prompts'),
      ({'num_train': 2000, 'num_heldout': 255}, '256 of them held out'),
      ({'source': 'csv:a.csv'}, "unknown scheme 'csv'.*rg:, jsonl:.*tfds:"),
      ({'source': 'spell_backward'}, "unknown scheme 'spell_backward'"),
      ({'source': 'rg:spel_backward'}, "mean 'spell_backward'"),
      ({'source': 'rg:zzzz'}, "no dataset 'zzzz'$"),
      ({'source': f'{SPELL}&max_word_length=3'},
       "no parameter 'max_word_length'; did you mean.*'max_word_len'.*has.*"
       'data_file, max_word_len, min_word_len'),
      ({'source': 'rg:spell_backward?seed=3'}, "no parameter 'seed'"),
      ({'source': 'rg:spell_backward?max_word_len'}, 'not KEY=VALUE'),
      ({'source': f'{SPELL}&max_word_len=4'}, "'max_word_len'.* given twice"),
      ({'source': 'rg:spell_backward?max_word_len=x'},
       'max_word_len=x.*type of its default, 10'),
      ({'source': 'rg:chain_sum?allow_negation=2'},
       'allow_negation=2.*default, False'),
      ({'source': 'rg:spell_backward?min_word_len=0'},
       "refuses.*'min_word_len': 0.*must be positive"),
      ({'source': 'rg:game_of_life_halting'}, 'refused.*rewards any text'),
      ({'source': 'rg:spiral_matrix'}, 'refused.*executes the completion'),
      ({'pattern': ': ([a-c]+)$'},
       r"pattern ': \(\[a-c\]\+\)\$' does not match the question 'Spell this"),
      ({'pattern': ': ('}, r"pattern ': \(' is no regular expression"),
      ({'template': '{1}'}, "template '.1}' does not fit pattern .* 1 groups"),
      ({'template': '{word}'}, "template '{word}' does not fit"),
      ({'template': '{'}, "template '{' does not fit"),
  )
  def test_one_sentence_for_what_is_wrong(self, changes, message):
    with self.assertRaisesRegex(ValueError, "^task 'name': .*" + message) as c:
      load(**changes)
    self.assertNotIn('\n', str(c.exception))


class ReasoningGymTest(absltest.TestCase):

  def test_draws_end(self):
    rows = reasoning_gym.source('chain_sum', seed=0, num_draws=3).rows
    self.assertEqual(
        [rows[i] for i in range(3)], list(itertools.islice(rows, 4)))

  def test_verifiers_that_execute_a_completion_are_refused(self):
    # In a process of its own: some of the datasets print, or leave files open.
    code = """
import pathlib, sys
from reasoning_gym.factory import DATASETS
for name in sorted(set(DATASETS) - {'composite'}):
  make, config = DATASETS[name]
  dataset = make(config(seed=1, size=2))
  entry = dataset[0]
  attack = f'__import__("os").mkdir("{sys.argv[1]}/{name}")'
  for completion in (attack, f'[{attack}]', f'x+{attack}'):
    try:
      dataset.score_answer(completion, entry)
    except Exception:
      pass
"""
    with tempfile.TemporaryDirectory() as folder:
      subprocess.run(
          [sys.executable, '-c', code, folder], check=True,
          stdout=subprocess.DEVNULL)
      executes = set(os.listdir(folder))
    # The attack works, or the test would pass whatever is refused.
    self.assertIn('spiral_matrix', executes)
    self.assertEqual(executes, {
        name for name, reason in reasoning_gym.REFUSED.items()
        if reason == reasoning_gym.EXECUTES})


  def test_what_depends_on_the_hash_seed(self):
    code = """
import json, sys
from reasoning_gym.factory import DATASETS
drawn = {}
for name in sorted(set(DATASETS) - set(json.loads(sys.argv[1]))):
  make, config = DATASETS[name]
  dataset = make(config(seed=1234, size=8))
  entries = [dataset[i] for i in range(8)]
  drawn[name] = repr([(e['question'], e['answer']) for e in entries])
json.dump(drawn, open(sys.argv[2], 'w'))
"""
    drawn = []
    with tempfile.TemporaryDirectory() as folder:
      for seed in '01':
        subprocess.run(
            [sys.executable, '-c', code,
             json.dumps(list(reasoning_gym.REFUSED)), f'{folder}/{seed}'],
            check=True, stdout=subprocess.DEVNULL,
            env=os.environ | dict(PYTHONHASHSEED=seed))
        drawn.append(json.loads(pathlib.Path(folder, seed).read_text()))
    one, other = drawn
    self.assertGreater(len(one), 90)
    self.assertEqual(
        tuple(name for name in one if one[name] != other[name]),
        reasoning_gym.HASHED)

  @mock.patch.dict(os.environ)
  def test_a_hash_seed_must_be_set_where_it_matters(self):
    for unset in ('random', None):
      os.environ.pop('PYTHONHASHSEED', None)
      if unset:
        os.environ['PYTHONHASHSEED'] = unset
      with self.assertRaisesRegex(ValueError, "'ransom_note' .*HASHSEED=0"):
        reasoning_gym.source('ransom_note', seed=0, num_draws=3)
      # It does not matter to others.
      reasoning_gym.source('chain_sum', seed=0, num_draws=3)
    os.environ['PYTHONHASHSEED'] = '0'
    rows = reasoning_gym.source('ransom_note', seed=0, num_draws=3).rows
    self.assertLen(rows, 3)


class TemplateTest(absltest.TestCase):

  def test_groups_by_number_and_name(self):
    cut = template.cutter(r'(\d+) (?P<op>.) (\d+)', '{2}{op}{0} {{}}')
    self.assertEqual(cut('What is 4 - 1?'), '1-4 {}')

  def test_group_without_a_part_is_empty(self):
    cut = template.cutter(r'(a)(b)?(?P<c>c)?', '{0}{1}{c}.')
    self.assertEqual(cut('a'), 'a.')


if __name__ == '__main__':
  absltest.main()

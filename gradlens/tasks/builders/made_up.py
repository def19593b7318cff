"""Records that are made up, in files of the form that the real ones have.

For tests, and for trying a config where there is no network. Nothing in them
comes from a dataset: numbers are counted up, words are ours.
"""

from collections.abc import Callable
import itertools
import json
from typing import Any

from etils import epath

from gradlens.tasks import builders

# How many records a split has.
SIZES = {'train': 384, 'validation': 24, 'test': 96}

_ITEMS = ('apples', 'books', 'cups', 'doors', 'eggs', 'forks', 'gloves')
_NAMES = ('Ada', 'Ben', 'Cleo', 'Dan', 'Eva')


def write(name: str, folder: epath.PathLike) -> None:
  """Writes all files of one of `builders.BUILDERS`.

  Args:
    name: of the dataset.
    folder: where its repository's files would lie.
  """
  count = itertools.count()
  for split, paths in builders.find(name).FILES.items():
    for number, path in enumerate(paths):
      # The same share of a split in each of its files.
      size = SIZES[split] * (number + 1) // len(paths)
      size -= SIZES[split] * number // len(paths)
      target = epath.Path(folder) / path.replace('*', '00000-of-00001')
      target.parent.mkdir(parents=True, exist_ok=True)
      records = [_RECORDS[name](i, path) for i in itertools.islice(count, size)]
      _WRITERS[target.suffix](target, records)


def _write_lines(path: epath.Path, records: list[dict[str, Any]]) -> None:
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))


def _write_array(path: epath.Path, records: list[dict[str, Any]]) -> None:
  path.write_text(json.dumps(records))


def _write_parquet(path: epath.Path, records: list[dict[str, Any]]) -> None:
  import pyarrow as pa
  import pyarrow.parquet as pq

  with path.open('wb') as file:
    pq.write_table(pa.Table.from_pylist(records), file)


def _gsm8k(i: int, path: str) -> dict[str, Any]:
  del path
  who, what = _NAMES[i % len(_NAMES)], _ITEMS[i % len(_ITEMS)]
  a, b = 900 + i, i % 9 + 2
  return {
      'question': f'{who} has {a} {what} and buys {b} more. How many in all?',
      'answer': f'{a} and {b} are <<{a}+{b}={a + b}>>{a + b}.\n'
                f'#### {a + b:,}',
  }


def _math(i: int, path: str) -> dict[str, Any]:
  subject = path.partition('/')[0].replace('_', ' ').title()
  a, b = i + 2, i % 7 + 2
  return {
      'problem': f'Write $\\frac{{{a}}}{{{a * b}}}$ in lowest terms.',
      'level': f'Level {i % 5 + 1}',
      'type': subject,
      'solution': f'Both are divided by ${a}$, '
                  f'so it is $\\boxed{{\\frac{{1}}{{{b}}}}}$.',
  }


def _math500(i: int, path: str) -> dict[str, Any]:
  del path
  # Every fifth is of the test split of `_math`, as all of MATH-500 are.
  number = (SIZES['train'] if i % 5 == 0 else 1000) + i
  record = _math(number, 'algebra/')
  return {
      'problem': record['problem'], 'solution': record['solution'],
      'answer': f'\\frac{{1}}{{{number % 7 + 2}}}', 'subject': 'Algebra',
      'level': i % 5 + 1, 'unique_id': f'test/algebra/{i}.json',
  }


def _countdown(i: int, path: str) -> dict[str, Any]:
  del path
  a, b, c = i % 48 + 2, i % 23 + 2, i // 48 + 1
  return {'target': a + b - c, 'nums': [a, b, c]}


def _finqa(i: int, path: str) -> dict[str, Any]:
  del path
  old, new = 200 + i, 300 + 2 * i
  change = new - old
  percent = i % 2
  return {
      'pre_text': ['amounts are in millions .'],
      'post_text': ['.'],
      'filename': f'MADE/2001/page_{i}.pdf',
      'table': [['', '2001', '2000'], ['sales', f'${new}', f'${old}']],
      'id': f'MADE/2001/page_{i}.pdf-1',
      'qa': {
          'question': 'by what fraction did sales grow ?' if percent
                      else 'by how many millions did sales grow ?',
          'answer': f'{100 * change / old:.1f}%' if percent else f'{change}',
          'program': f'subtract({new}, {old})' + (
              f', divide(#0, {old})' if percent else ''
          ),
          'exe_ans': round(change / old, 5) if percent else float(change),
      },
  }


def _deepscaler(i: int, path: str) -> dict[str, Any]:
  del path
  a, b = i + 3, i % 5 + 2
  return {
      'problem': f'The roots of $(x-{a})(x-{b})=0$ have which sum?',
      'answer': str(a + b),
      'solution': f'They are ${a}$ and ${b}$.',
  }


def _arithmetic(i: int, path: str) -> dict[str, Any]:
  word = path.removesuffix('.jsonl').rpartition('_')[2]
  a, b, c = 10 + i, i % 90 + 10, i % 8 + 2
  question, answer = {
      'addition': (f'{a} plus {b}', a + b),
      'subtraction': (f'{a} minus {b}', a - b),
      'multiplication': (f'{a} times {b}', a * b),
      'ops': (f'({a} + {b}) * {c}', (a + b) * c),
  }[word]
  return {
      'context': f'\n\nQ: What is {question}?\n\nA:', 'completion': f' {answer}'
  }


def _r1_code(i: int, path: str) -> dict[str, Any]:
  del path
  tests = [
      {'fn_name': None, 'input': f'{n}\n', 'output': f'{n + i}\n',
       'type': 'stdin_stdout'}
      for n in (0, 1, 10 + i)
  ]
  return {
      'source': 'made up', 'task_type': 'verifiable_code',
      'in_source_id': str(i), 'problem_id': f'made_up_{i}',
      'problem_statement': f'Read a whole number n and print n + {i}.',
      'gold_standard_solution': f'```python\nprint(int(input()) + {i})\n```',
      'metadata': {'difficulty': 'EASY', 'memory_limit': None,
                   'memory_limit_bytes': None, 'problem_url': None,
                   'time_limit': '1 second'},
      'verification_info': {'language': 'python', 'test_cases': tests},
  }


_RECORDS: dict[str, Callable[[int, str], dict[str, Any]]] = {
    'arithmetic': _arithmetic, 'countdown': _countdown,
    'deepscaler': _deepscaler, 'finqa': _finqa, 'gsm8k': _gsm8k, 'math': _math,
    'math500': _math500, 'r1_code': _r1_code,
}
_WRITERS: dict[str, Callable[[epath.Path, list[dict[str, Any]]], None]] = {
    '.json': _write_array, '.jsonl': _write_lines, '.parquet': _write_parquet,
}

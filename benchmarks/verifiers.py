"""How many answers a second the verifiers score.

    python -m benchmarks.verifiers --num_workers=2

2,000 answers like those to MATH, half of them right, and 200 programs with five
tests each, a third of them right: scored by the pool that a run uses, as in a
run, with its limits. The pool has started before the clock does.
"""

import random
import time

from absl import app, flags

from gradlens import tasks
from gradlens.tasks import verifiers

_NUM_WORKERS = flags.DEFINE_integer('num_workers', 2, 'Processes.')
_MATH = flags.DEFINE_integer('math', 2000, 'Answers to be compared.')
_CODE = flags.DEFINE_integer('code', 200, 'Programs to be run.')

Item = tuple[str, str, tasks.Record]

_SUM = """Read two numbers, and add them.

```python
a, b = map(int, input().split())
print(a {sign} b)
```
"""


def math_items(number: int, seed: int = 0) -> tuple[list[Item], float]:
  """Answers in the forms that MATH's have, and their mean score."""
  draw = random.Random(seed)
  items = []
  for i in range(number):
    a, b, c = (draw.randint(2, 99) for _ in range(3))
    # A reference, the same written another way, and another answer.
    gold, same, other = draw.choice((
        (str(a * b), f'{a * b}.0', str(a * b + 1)),
        (rf'\frac{{{a}}}{{{b}}}', f'{a}/{b}', f'{a}/{b + 1}'),
        (rf'{a}\sqrt{{{b}}}', rf'\sqrt{{{a * a * b}}}',
         rf'{a + 1}\sqrt{{{b}}}'),
        (f'x^2+{a}x+{b}', f'{b}+{a}x+x^2', f'x^2+{a}x-{b}'),
        (f'({a},{a + b}]', f'({a}, {a + b}]', f'[{a}, {a + b})'),
        (rf'\frac{{{a}\pi}}{{{b}}}', rf'{a}\pi/{b}', rf'{a + 1}\pi/{b}'),
        (f'{a},{b},{c}', f'{c}, {a}, {b}', f'{a}, {b}, {c + 100}'),
    ))
    answer = same if i % 2 else other
    text = f'We see that this is so. The answer is $\\boxed{{{answer}}}$.'
    items.append(('math', text, tasks.Record('', gold, {})))
  return items, sum(i % 2 for i in range(number)) / number


def code_items(number: int, seed: int = 0) -> tuple[list[Item], float]:
  """Programs with five tests each, and their mean score."""
  draw = random.Random(seed)
  items = []
  for i in range(number):
    tests = []
    for _ in range(5):
      a, b = draw.randint(1, 999), draw.randint(1, 999)
      tests.append(dict(stdin=f'{a} {b}\n', stdout=f'{a + b}\n'))
    program = _SUM.format(sign='+-*'[i % 3])
    items.append(('code', program, tasks.Record('', '', {'tests': tests})))
  return items, sum(i % 3 == 0 for i in range(number)) / number


def main(argv: list[str]) -> None:
  """Prints a row for each verifier."""
  del argv
  kinds = {
      'math': math_items(_MATH.value), 'code': code_items(_CODE.value),
  }
  pool = tasks.Verifier(
      tasks.confine(
          [tasks.Task(name, [], [], verifiers.parse(name)) for name in kinds],
          tasks.Limits(wall_seconds=50.0),
      ),
      num_workers=_NUM_WORKERS.value,
  )
  with pool:
    # Until all have started, and imported what they need.
    for items, _ in kinds.values():
      pool.score(items[:100 * _NUM_WORKERS.value])
    print(f'{_NUM_WORKERS.value} workers')
    for name, (items, expected) in kinds.items():
      start = time.perf_counter()
      results = pool.score(items)
      seconds = time.perf_counter() - start
      score = sum(r.score for r in results) / len(results)
      if abs(score - expected) > 1e-9:
        raise RuntimeError(f'{name}: mean score {score}, not {expected}')
      print(f'{name}: {len(items)} in {seconds:.1f} s, '
            f'{len(items) / seconds:.0f} a second')


if __name__ == '__main__':
  app.run(main)

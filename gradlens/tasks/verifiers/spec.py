"""Verifiers from the strings that name them in configs."""

import collections
import dataclasses
import math
import re
import types
from typing import Any
import urllib.parse

from gradlens.tasks import sandbox
from gradlens.tasks.query import hint, pairs
from gradlens.tasks.types import Record
from gradlens.tasks.verifiers.code import Code
from gradlens.tasks.verifiers.countdown import Countdown
from gradlens.tasks.verifiers.mathematics import Math
from gradlens.tasks.verifiers.numeric import Numeric
from gradlens.tasks.verifiers.reward_model import RewardModel
from gradlens.tasks.verifiers.score import Score, Verify
from gradlens.tasks.verifiers.text import Choice, Exact, Format

KINDS = {
    'choice': Choice, 'code': Code, 'countdown': Countdown, 'exact': Exact,
    'format': Format, 'math': Math, 'numeric': Numeric,
    'reward_model': RewardModel,
}
_BOOLS = {'true': True, 'false': False}
_READ = {bool: lambda text: _BOOLS[text], float: float, int: int, str: str}
# Before a weight, since a pattern may have a plus as well.
_PLUS = re.compile(r'\+(?=[0-9.]+\*)')


@dataclasses.dataclass(frozen=True)
class Sum:
  """A weighted sum of verifiers, each of which is a reward by itself.

  Attributes:
    parts: weights, which sum to 1, with verifiers.
  """

  parts: tuple[tuple[float, Verify], ...]

  def __call__(self, completion: str, record: Record) -> Score:
    scores = [verify(completion, record) for _, verify in self.parts]
    total = sum(w * s.score for (w, _), s in zip(
        self.parts, scores, strict=True))
    return Score(
        total, '; '.join(s.reason for s in scores),
        tuple(s.score for s in scores),
    )

  def check(self, record: Record) -> None:
    for _, verify in self.parts:
      verify.check(record)


def parse(spec: str) -> Verify:
  """The verifier that a string names.

  Args:
    spec: `'NAME?OPTION=VALUE&OPTION=VALUE'`, or a sum of such with weights,
      `'0.9*math+0.1*format?pattern=...'`. In a value, `%26` stands for `&`,
      `%25` for `%`, and `quote` writes any text so.

  Returns:
    `verify(completion, record) -> Score`, which can be pickled, and has
    `check(record)`.

  Raises:
    ValueError: an unknown name or option, a value of another type, or weights
      that do not sum to 1.

  >>> parse('numeric?tolerance=0.01')('The answer is 3.14', Record(
  ...     'pi?', '3.14159', {}))
  Score(score=1.0, reason='right', parts=())
  """
  parts = _PLUS.split(spec)
  if len(parts) == 1 and not re.match(r'[0-9.]+\*', spec):
    return _single(spec)
  weighted = []
  for part in parts:
    weight, times, rest = part.partition('*')
    if not (times and re.fullmatch(r'[0-9]*\.?[0-9]+', weight)):
      raise ValueError(
          f'verifier {spec!r}: {part!r} has no weight; a sum is written'
          " '0.9*math+0.1*format?pattern=...'"
      )
    weighted.append((float(weight), _single(rest)))
  total = sum(weight for weight, _ in weighted)
  if not math.isclose(total, 1.0):
    raise ValueError(
        f'verifier {spec!r}: the weights sum to {total:g}; they must sum to 1'
    )
  return Sum(tuple(weighted))


def quote(text: str) -> str:
  """A text as the value of an option."""
  return urllib.parse.quote(text, safe='')


def _single(spec: str) -> Verify:
  name, _, query = spec.partition('?')
  if name not in KINDS:
    raise ValueError(
        f'there is no verifier {name!r}{hint(name, KINDS)}; there are '
        f'{", ".join(KINDS)}'
    )
  kind = KINDS[name]
  types = {f.name: f.type for f in dataclasses.fields(kind) if f.type in _READ}
  options: dict[str, Any] = {}
  for key, text in pairs(query, of=name).items():
    if key not in types:
      raise ValueError(
          f'verifier {name!r} has no option {key!r}{hint(key, types)}; it'
          f' has {", ".join(types)}'
      )
    try:
      options[key] = _READ[types[key]](text)
    except (KeyError, ValueError) as error:
      raise ValueError(
          f'option {key}={text} of verifier {name!r} is no'
          f' {types[key].__name__}'
      ) from error
  try:
    return kind(**options)
  except (FileNotFoundError, TypeError, ValueError) as error:
    raise ValueError(f'verifier {spec!r}: {error}') from error


def confined(verify: Any, limits: sandbox.Limits) -> Any:
  """The same verifier, where it runs programs within these limits."""
  match verify:
    case Code():
      return dataclasses.replace(verify, limits=limits)
    case Sum():
      return Sum(tuple((w, confined(v, limits)) for w, v in verify.parts))
  return verify


def rewards(verify: Any) -> dict[str, float]:
  """Names and weights of the rewards that a verifier gives.

  Those of a sum are called by their verifiers, with a number from the second
  one of a name on.

  >>> rewards(parse('0.5*math+0.3*format?pattern=a+0.2*format?pattern=b'))
  {'math': 0.5, 'format': 0.3, 'format2': 0.2}
  >>> rewards(parse('math'))
  {'math': 1.0}
  """
  if not isinstance(verify, Sum):
    return {_name(verify): 1.0}
  seen: collections.Counter[str] = collections.Counter()
  found = {}
  for weight, part in verify.parts:
    name = _name(part)
    seen[name] += 1
    found[f'{name}{seen[name]}' if seen[name] > 1 else name] = weight
  return found


def _name(verify: Any) -> str:
  for name, kind in KINDS.items():
    if isinstance(verify, kind):
      return name
  if isinstance(verify, types.FunctionType):
    return verify.__name__
  return type(verify).__name__


def runs_code(verify: Any) -> bool:
  """Whether a verifier runs what a model wrote, and so needs the sandbox."""
  match verify:
    case Code():
      return True
    case Sum():
      return any(runs_code(v) for _, v in verify.parts)
  return False

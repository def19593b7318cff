"""Groups: runs whose configs differ by their seed only, and their names."""

import collections
from collections.abc import Sequence
import json
from typing import NamedTuple

from gradlens.report import history
from gradlens.workdir import claim

# As the configs' own arguments shorten it.
_SHORT = {'correction.name': 'correction'}
_MAX_LABEL = 48
_ABSENT = 'absent'


class Group(NamedTuple):
  """Runs that are repetitions of each other.

  Attributes:
    label: the config keys in which groups differ, with this one's values.
    differs: the same, complete: {key: value as text}.
    members: places of its runs among all, in their order.
  """
  label: str
  differs: dict[str, str]
  members: tuple[int, ...]


def grouped(runs: Sequence[history.Run]) -> list[Group]:
  """Groups runs, in the order of their first members.

  Two runs of one config and one seed are no repetitions of each other, so the
  second is in a group of its own.
  """
  found, seen = {}, collections.Counter()
  for i, run in enumerate(runs):
    flat = claim.flatten(run.config)
    seed = flat.pop('seed', None)
    key = json.dumps(flat, sort_keys=True)
    seen[key, seed] += 1
    found.setdefault((key, seen[key, seed]), []).append(i)
  differs = _differences([
      claim.flatten(runs[members[0]].config) for members in found.values()])
  short = [_label(own) for own in differs]
  own_names = names(runs)
  labels = []
  for label, members in zip(short, found.values(), strict=True):
    name = own_names[members[0]]
    if short.count(label) > 1 and label:
      label = f'{label} ({name})'
    labels.append(label or name)
  return [Group(*parts) for parts in zip(
      labels, differs, map(tuple, found.values()), strict=True)]


def _differences(flats: Sequence[dict]) -> list[dict[str, str]]:
  """Of every config the keys, with values, in which they are not all alike."""
  texts = [{key: json.dumps(value).strip('"') for key, value in flat.items()
            if key != 'seed'} for flat in flats]
  keys = dict.fromkeys(key for own in texts for key in own)
  kept = [key for key in keys if len({own.get(key) for own in texts}) > 1]
  return [{key: own.get(key, _ABSENT) for key in kept} for own in texts]


def _label(differs: dict[str, str]) -> str:
  text = ', '.join(
      f'{_SHORT.get(key, key)}={value}' for key, value in differs.items()
      if value != _ABSENT)
  return text if len(text) <= _MAX_LABEL else f'{text[:_MAX_LABEL - 1]}…'


def names(runs: Sequence[history.Run]) -> list[str]:
  """The shortest ends of the runs' paths that tell them apart."""
  paths = [run.workdir.resolve().parts for run in runs]
  found = []
  for path in paths:
    for length in range(1, len(path) + 1):
      end = path[-length:]
      if sum(other[-length:] == end for other in paths) == 1:
        break
    found.append('/'.join(end))
  return found

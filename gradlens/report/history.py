"""Read a run's history from its working directory.

Dims here: T training steps, K tasks, N held-out prompts.
"""

from collections.abc import Sequence
import io
import json
from typing import Any, NamedTuple
import zipfile

from etils import epath
import numpy as np

_HELD_OUT = 'heldout/'


class Run(NamedTuple):
  """Everything a run left behind; a metric's last value in a step wins.

  Attributes:
    workdir: where it was read from.
    config: the run's config, as nested dictionaries.
    versions: version of each package the run used.
    scalars: {tag: {step: value}}, evaluations and training steps.
    texts: {tag: {step: text}}.
    evals: {step: {task: float64 [N]}}, a held-out prompt's mean reward.
    steps: training steps that left any metric, ascending: int64 [T].
  """
  workdir: epath.Path
  config: dict[str, Any]
  versions: dict[str, str]
  scalars: dict[str, dict[int, float]]
  texts: dict[str, dict[int, str]]
  evals: dict[int, dict[str, np.ndarray]]
  steps: np.ndarray

  def setting(self, key: str) -> Any:
    """Config value under a dotted key, such as 'loss.aggregate'."""
    value = self.config
    for part in key.split('.'):
      if not isinstance(value, dict) or part not in value:
        raise ValueError(f'{self.workdir}/config.json has no key {key!r}; was '
                         'it written by another version of gradlens?')
      value = value[part]
    return value

  @property
  def tasks(self) -> list[str]:
    """Task names in the config's order."""
    return list(self.setting('tasks'))

  def values(self, tag: str) -> np.ndarray:
    """One metric at every training step, NaN where absent: float64 [T]."""
    series = self.scalars.get(tag, {})
    return np.array([series.get(s, np.nan) for s in self.steps.tolist()])

  def per_task(self, prefix: str) -> np.ndarray:
    """The metric `prefix/TASK` of every task: float64 [T, K]."""
    return np.stack([self.values(f'{prefix}/{t}') for t in self.tasks], -1)

  def heldout(self, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [E] and mean rewards [E] of a task's held-out evaluations."""
    series = dict(self.scalars.get(_HELD_OUT + task, {}))
    series |= {step: float(rewards[task].mean())
               for step, rewards in self.evals.items() if task in rewards}
    steps = sorted(series)
    return np.array(steps, np.int64), np.array([series[s] for s in steps])


def load(workdir: epath.PathLike) -> Run:
  """Reads a run, finished or not.

  Args:
    workdir: the run's directory, local or remote (gs://...).

  Returns:
    The run; without a training step or an evaluation their parts are empty.

  Raises:
    ValueError: there is no run, or a file is broken (file and line named).
      Only the last line of metrics.jsonl may be cut short.
  """
  workdir = epath.Path(workdir)
  if not (workdir / 'config.json').exists():
    raise ValueError(f'{workdir} holds no run: it has no config.json. Give '
                     'the --workdir of the training command.')
  config = _read_json(workdir / 'config.json')
  versions = {}
  if (workdir / 'versions.json').exists():
    versions = _read_json(workdir / 'versions.json')
  scalars, texts = _read_metrics(workdir / 'metrics.jsonl')
  evals = _read_evals(workdir / 'evals')
  steps = {step for tag, series in scalars.items() for step in series
           if step > 0 and not tag.startswith(_HELD_OUT)}
  run = Run(workdir, config, versions, scalars, texts, evals,
            np.array(sorted(steps), np.int64))
  if not run.tasks:
    raise ValueError(f'{workdir}/config.json names no task under "tasks".')
  return run


def load_all(workdirs: Sequence[epath.PathLike]) -> list[Run]:
  """Reads several runs.

  Raises:
    ValueError: as `load`; or there are none, or one is named twice.
  """
  if not workdirs:
    raise ValueError('name at least one run, by its --workdir.')
  paths = [epath.Path(workdir).resolve() for workdir in workdirs]
  twice = [str(path) for path in paths if paths.count(path) > 1]
  if twice:
    raise ValueError(f'{twice[0]} is named twice; a run is compared with '
                     'others, not with itself.')
  return [load(workdir) for workdir in workdirs]


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_bytes())
  except ValueError as e:
    raise ValueError(f'{path} is not valid JSON: {e}') from e
  if not isinstance(value, dict):
    raise ValueError(f'{path} must hold a JSON object, not {value!r:.40}')
  return value


def _read_metrics(path: epath.Path) -> tuple[dict, dict]:
  """Metrics and texts by tag and step; a missing file is an empty history."""
  scalars, texts = {}, {}
  if not path.exists():
    return scalars, texts
  lines = path.read_bytes().split(b'\n')
  # What follows the last newline is empty, or was cut when a run was killed.
  for number, line in enumerate(lines, start=1):
    try:
      record = _parse(line) if line.strip() else {'step': 0}
    except (ValueError, TypeError, KeyError) as e:
      if number == len(lines):
        break
      raise ValueError(f'{path}, line {number}, is not a record of metrics '
                       f'({e}): {line[:60]!r}; only the last line may be cut '
                       'short.') from e
    step = record['step']
    for tag, value in record.get('scalars', {}).items():
      scalars.setdefault(tag, {})[step] = value
    for tag, text in record.get('texts', {}).items():
      texts.setdefault(tag, {})[step] = text
  return scalars, texts


def _parse(line: bytes) -> dict[str, Any]:
  record = json.loads(line)
  step = record['step']
  if not isinstance(step, int) or step < 0:
    raise ValueError(f'step {step!r} is not a step')
  if not {'scalars', 'texts'} & set(record):
    raise ValueError('neither scalars nor texts')
  scalars = {tag: np.nan if value is None else float(value)
             for tag, value in dict(record.get('scalars', {})).items()}
  texts = {tag: str(text)
           for tag, text in dict(record.get('texts', {})).items()}
  return {'step': step, 'scalars': scalars, 'texts': texts}


def _read_evals(path: epath.Path) -> dict[int, dict[str, np.ndarray]]:
  evals = {}
  for file in sorted(path.glob('*.npz')) if path.exists() else []:
    try:
      with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as data:
        evals[int(file.stem)] = {
            task: data[task].mean(-1, dtype=np.float64) for task in data.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
      raise ValueError(f'{file} is not a file of held-out rewards: {e}') from e
  return evals

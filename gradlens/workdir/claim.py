"""Claim: a folder becomes a run's own, by its config and its packages."""

from collections.abc import Callable, Mapping
from importlib import machinery
import importlib.metadata
import json
from typing import Any

from etils import epath

CONFIG, VERSIONS = 'config.json', 'versions.json'
PACKAGES = ('gradlens', 'jax', 'jaxlib', 'flax', 'optax', 'numpy',
            'orbax-checkpoint', 'transformers', 'reasoning-gym',
            # Of the records of tasks, and of answers that are found equal.
            'tensorflow-datasets', 'math-verify', 'latex2sympy2_extended',
            'sympy')
# What may change between a run and its continuation: none of it is trained.
_FREE = (
    'log_seconds', 'checkpoint.every', 'checkpoint.keep', 'evaluate.every',
    'evaluate.batch_size', 'evaluate.num_completions', 'mesh.', 'profile.',
    'rollout.tensor', 'rollout.overlap',
)


def versions() -> dict[str, str]:
  """Of the packages that a run's numbers depend on."""
  return {name: importlib.metadata.version(name) for name in PACKAGES}


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Keys with dots, to values that are no mappings."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = named(value) if callable(value) else value
  return flat


def named(function: Callable[..., Any]) -> str:
  """What is written of a function that a config holds.

  Raises:
    ValueError: no other process could import it.
  """
  module = function.__module__
  # What can be called and is no function, as a sum of verifiers, has no name.
  name = getattr(function, '__qualname__', f'<{type(function).__name__}>')
  # A config file is loaded under a name of its own, and is no such module.
  found = machinery.PathFinder.find_spec(module.partition('.')[0])
  if found is None or not name.isidentifier():
    raise ValueError(
        f'the config holds the function {name}, which no other process can'
        ' import; define it by def in a module beside the config, and import it'
        ' there.'
    )
  return f'{module}.{name}'


def write_json(path: epath.Path, content: Any) -> None:
  """Writes a whole file or none."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(json.dumps(content, indent=1))
  temporary.replace(path)


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The config of a run.

  Raises:
    ValueError: the folder holds no run.
  """
  path = epath.Path(workdir) / CONFIG
  if not path.exists():
    raise ValueError(
        f'{workdir} holds no run of gradlens ({CONFIG} is missing); give the'
        ' --workdir of python -m gradlens.main.'
    )
  return json.loads(path.read_text())


def check_shared(workdir: epath.Path) -> None:
  """Refuses a folder where this host does not see what the first has written.

  Raises:
    ValueError: it does not.
  """
  if not (workdir / CONFIG).exists():
    raise ValueError(
        f'workdir {workdir} is not the one that host 0 writes to; take one that'
        ' all hosts share, as gs://...'
    )


def claim(workdir: epath.PathLike, config: Mapping[str, Any]) -> epath.Path:
  """Makes a folder the run's own, or recognizes it as such.

  Args:
    workdir: where the run is to be.
    config: JSON-able, nested; of functions the name is kept.

  Raises:
    ValueError: the folder cannot be written, holds something else, or a run
      with another config, with each key that differs.
  """
  workdir = epath.Path(workdir)
  config = json.loads(json.dumps(config, default=named))
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    present = {path.name for path in workdir.iterdir()}
    ours = {VERSIONS, VERSIONS + '.tmp', CONFIG + '.tmp'}
    if CONFIG not in present and present - ours:
      raise ValueError(
          f'workdir {workdir} holds something else'
          f' ({", ".join(sorted(present)[:3])}); choose an empty or new one.'
      )
    if CONFIG not in present:
      write_json(workdir / VERSIONS, versions())
      write_json(workdir / CONFIG, config)
  except OSError as error:
    raise ValueError(
        f'workdir {workdir} cannot be written ({error.strerror}); choose'
        ' another.'
    ) from error
  _check_same(workdir, flatten(read_config(workdir)), flatten(config))
  return workdir


def _check_same(
    workdir: epath.Path, old: dict[str, Any], new: dict[str, Any]
) -> None:
  differences = [
      f'{key} was {old.get(key)!r} and is {new.get(key)!r}'
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key) and not key.startswith(_FREE)
  ]
  if differences:
    raise ValueError(
        f'workdir {workdir} holds a run of another config: '
        + '; '.join(differences)
        + '. Restore the config to resume it, or choose another workdir.'
    )

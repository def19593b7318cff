"""Kinds: the names that configs use."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradlens.mixture.bandits import dump, mt_grpo, sec
from gradlens.mixture.constant import fixed, proportional, tempered, uniform
from gradlens.mixture.gradients import aligned, gradient
from gradlens.mixture.kind import Kind
from gradlens.mixture.progress import pac

KINDS = dict(
    uniform=uniform,
    fixed=fixed,
    proportional=proportional,
    temperature=tempered,
    gradient=gradient,
    sec=sec,
    dump=dump,
    pac=pac,
    aligned=aligned,
    mt_grpo=mt_grpo,
)


def make_kind(
    name: str, kwargs: Mapping[str, Any], names: Sequence[str],
    sizes_K: Sequence[int],
) -> Kind:
  """The kind of a config.

  Args:
    name: a key of `KINDS`.
    kwargs: its own arguments.
    names: of the tasks.
    sizes_K: numbers of their training records.

  Raises:
    ValueError: an unknown name or argument, or one that makes no sense.
  """
  if name not in KINDS:
    raise ValueError(
        f'config.mixture.kind={name!r} is not known; choose one of'
        f' {", ".join(KINDS)}.'
    )
  try:
    return KINDS[name](names, sizes_K, **kwargs)
  except (TypeError, ValueError) as error:
    raise ValueError(
        f'config.mixture.kwargs={dict(kwargs)} do not fit {name}: {error}.'
    ) from error

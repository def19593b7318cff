"""Figures: one look for all, and the same file from the same numbers."""

from collections.abc import Callable, Iterable, Iterator
import pathlib
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

# Safe for color blindness (Okabe and Ito).
COLORS = '#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00'
_STYLE = {
    'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9,
    'svg.hashsalt': 'gradlens', 'svg.fonttype': 'none',
    'axes.grid': True, 'grid.alpha': 0.25,
    'figure.constrained_layout.use': True,
}


def colored(things: Iterable[Any]) -> Iterator[tuple[str, Any]]:
  """A color for each of the first six."""
  return zip(COLORS, things, strict=False)


def legend_beside(axes: plt.Axes) -> None:
  """To the right of it, where no data is."""
  axes.legend(
      frameon=False, fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5)
  )


def save(
    folder: pathlib.Path, found: Any, **draw: Callable[[Any], plt.Figure]
) -> None:
  """Writes `NAME.svg` of every `NAME=function of found`."""
  folder.mkdir(parents=True, exist_ok=True)
  with plt.rc_context(_STYLE):
    for name, function in draw.items():
      figure = function(found)
      figure.savefig(folder / f'{name}.svg', metadata=dict(Date=None))
      plt.close(figure)

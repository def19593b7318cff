"""Figures: which there are, what each shows, and how it was made."""

from typing import NamedTuple

from gradlens.report import curves


class Tab(NamedTuple):
  """One way to fill a figure with curves.

  Attributes:
    label: on its button.
    prefix: of the metric, `prefix/TASK`.
    axis: title of the vertical axis, with the unit.
    form: how numbers are written: 'number', 'fixed', 'signed' or 'percent'.
    part: rolling means take 1 / part of a run.
    log: a logarithmic axis.
    raw: single steps are drawn behind.
    kind: 'metric', 'gain' (made from rewards) or 'heldout'.
  """
  label: str
  prefix: str
  axis: str
  form: str = 'number'
  part: int = curves.PART
  log: bool = False
  raw: bool = False
  kind: str = 'metric'


class Figure(NamedTuple):
  """A figure of the page.

  Attributes:
    key: its id on the page.
    title: what is plotted.
    caption: how it was made; `{estimator}`, `{window}` stand for a run's own.
    kind: 'lines' or what draws it: 'heat', 'film', 'waterfall', 'scatter'.
    tabs: of curves.
    of: 'groups', or 'run' or 'group' where it shows the chosen run or its
      group only.
    wide: takes the page's whole width.
  """
  key: str
  title: str
  caption: str
  kind: str = 'lines'
  tabs: tuple[Tab, ...] = ()
  of: str = 'groups'
  wide: bool = False


def _norm(label: str, prefix: str) -> Tab:
  return Tab(label, prefix, 'squared norm (squared gradient)',
             part=curves.NORM_PART, log=True)


FIGURES = (
    Figure('norms', 'Squared gradient norm', (
        '{estimator}: only products of different splits of a task\'s prompts, '
        'free of sampling noise; contribution, that is, of what enters the '
        'update. Naive: the plain squared norm, noise included. Intrinsic: '
        'that of the task\'s own loss. Near zero an estimate may be negative: '
        'the log axis shows gaps there, the table counts them in.'),
        tabs=(_norm('{estimator}', 'norm_sq/unbiased'),
              _norm('naive', 'norm_sq/naive'),
              _norm('intrinsic', 'intrinsic_norm_sq/unbiased')), wide=True),
    Figure('heldout', 'Held-out reward', (
        'The same prompts at every evaluation. Bars of a single run are 95% '
        'intervals over its prompts.'),
        tabs=(Tab('', 'heldout', 'mean reward', 'fixed', kind='heldout'),),
        wide=True),
    Figure('reward', 'Training reward', 'Mean reward of a step\'s completions.',
           tabs=(Tab('', 'reward', 'mean reward', 'fixed', raw=True),),
           wide=True),
    Figure('shares', 'Share of the update', (
        'A task\'s part of the squared length of a step\'s update: without the '
        'correction, with it, and, after the optimizer, of what the change of '
        'the parameters does to the losses. Sampling noise is included. Below '
        'zero, the update moves against the task.'),
        tabs=tuple(
            Tab(label, f'share/{when}', 'share of the update', 'percent')
            for label, when in (('after correction', 'after'),
                                ('before', 'before'),
                                ('after optimizer', 'optimizer'))),
        wide=True),
    Figure('waterfall', 'From gradient to update', (
        'Each task\'s share of the summed gradient, what the correction and '
        'the optimizer add to it or take away, and its share of what the '
        'change of the parameters does to the losses: averages over the run. '
        'Lines are 95% intervals of the level that a bar ends at.'),
        kind='waterfall', of='group', wide=True),
    Figure('layers', 'Blocks over time', (
        'Share of each block of parameters in a task\'s {estimator} squared '
        'norm. Every column averages consecutive steps, the separate one on '
        'the right the whole run, and adds up to 100%. A negative share, '
        'marked by a dash, is noise around zero.'),
        kind='heat', of='run', wide=True),
    Figure('film', 'Cosines between tasks', (
        'Between the tasks\' gradients: mean inner product over the root of '
        'the mean {estimator} squared norms, of the steps below each frame. '
        'Noise may carry a value past 1; crossed out where a norm is not above '
        'zero. Dashes mark negative cosines.'),
        kind='film', of='run', wide=True),
    Figure('gain', 'Learning gain', (
        'Mean training reward of the next {window} minus that of the last '
        '{window}.'),
        tabs=(Tab('', 'reward', 'gain in reward', 'signed', kind='gain'),)),
    Figure('scatter', 'Norm against gain', (
        'Run-averaged {estimator} squared norm and mean learning gain of each '
        'quarter of the run (1 to 4). If size meant potential, points would '
        'rise to the right.'), kind='scatter', of='run'),
    Figure('weights', 'Weights', (
        'The factor of the correction on each task\'s gradient; 1 leaves it as '
        'it is.'), tabs=(Tab('', 'weight', 'weight', raw=True),)),
    Figure('completions', 'Completions', (
        'Averages over a step\'s completions: candidates for why a norm is '
        'large.'),
        tabs=(Tab('length', 'length', 'length (tokens)', raw=True),
              Tab('entropy', 'entropy', 'entropy (nats per token)', raw=True),
              Tab('|advantage|', 'abs_advantage', 'mean |advantage|',
                  raw=True))),
)

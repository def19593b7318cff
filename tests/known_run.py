"""A run of known numbers, and how to read the page made of it."""

import html.parser
import json
import math
import pathlib
import tempfile

from absl.testing import parameterized
import numpy as np

from gradlens.report import history, summary

CONFIG = {
    'seed': 7, 'num_steps': 40, 'num_splits': 2, 'prompts_per_task': 8,
    'num_completions': 4, 'num_mini_batches': 1, 'lora': {'rank': 0},
    'rollout': {'temperature': 1.0},
    'mixture': {'kind': 'uniform'},
    'loss': {'aggregate': 'sequence_mean', 'normalize': 'batch',
             'mask_truncated': False},
    'correction': {'name': 'equalize_norms'}}


def write_run(workdir, names=('a', 'b', 'c'), num_steps=40, every=1,
              evals=(0, 40), text='olleh', source=None, **config):
  """Writes a run of known numbers; returns them as {prefix: [T, K]}."""
  rng = np.random.default_rng(config.get('seed', 0))
  shape = num_steps, len(names)
  unbiased = (1 + 4 * np.arange(len(names))) * rng.normal(1, 0.2, shape)
  numbers = {
      'norm_sq/unbiased': unbiased, 'norm_sq/naive': unbiased + 30,
      'intrinsic_norm_sq/unbiased': 9 * unbiased,
      'intrinsic_norm_sq/naive': 9 * unbiased + 270,
      'share/before': rng.dirichlet(np.ones(len(names)), num_steps),
      'share/after': rng.dirichlet(np.ones(len(names)), num_steps),
      'share/optimizer': rng.dirichlet(np.ones(len(names)), num_steps),
      'weight': rng.uniform(0.5, 2, shape), 'reward': rng.uniform(0, 1, shape),
      'layer_norm_sq/layers.00': 0.25 * unbiased,
      'layer_norm_sq/embed': 0.75 * unbiased,
      'length': rng.uniform(3, 9, shape), 'skipped': np.zeros(shape),
      'prompts': np.full(shape, float(CONFIG['prompts_per_task']))}
  lines = []
  for t in range(0, num_steps, every):
    scalars = {f'{prefix}/{name}': values[t, k]
               for prefix, values in numbers.items()
               for k, name in enumerate(names)}
    # inner products of cosine 1/2
    scalars |= {f'inner/{names[i]}/{names[j]}':
                math.sqrt((1 + 4 * i) * (1 + 4 * j)) / 2
                for j in range(len(names)) for i in range(j)}
    lines.append({'step': t + 1, 'scalars': scalars})
  (workdir / 'evals').mkdir(parents=True)
  numbers['evals'] = []
  level = rng.uniform(size=(200, len(names)))
  for step in evals:
    rewards = level + rng.normal(0.002 * step, 0.1, level.shape)
    numbers['evals'].append(rewards.astype(np.float32))
    # Of one completion.
    np.savez(workdir / f'evals/{step:08d}.npz', **dict(zip(
        names, numbers['evals'][-1].T[..., None], strict=True)))
    sample = {'prompt': 'hello', 'completion': text, 'answer': text,
              'reward': 1.0, 'reason': text}
    lines.append({'step': step, 'texts': {
        f'samples/{name}': json.dumps([sample]) for name in names}})
  (workdir / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))
  (workdir / 'config.json').write_text(json.dumps(
      CONFIG | config | {'tasks': {
          name: {'source': source or text} for name in names}}))
  (workdir / 'versions.json').write_text(json.dumps({'jax': text}))
  return numbers


class ReportCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.workdir = pathlib.Path(directory.name) / 'run'

  def rows(self, **kwargs):
    numbers = write_run(self.workdir, **kwargs)
    return summary.summarize(history.load(self.workdir)), numbers


class Page(html.parser.HTMLParser):
  """What a browser makes of a page: elements, texts, the script's data."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self.tables, self._scripts = [], [], [], []
    self._within = False
    self.feed(text)
    self.data = json.loads(self._scripts[0])

  @property
  def summary(self):
    """Cells of the first table, by row."""
    return self.tables[0]

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag == 'script':
      self._scripts.append('')
    elif tag == 'table':
      self.tables.append([])
      self._within = True
    elif tag == 'tr':
      self.tables[-1].append([])

  def handle_endtag(self, tag):
    self._within &= tag != 'table'

  def handle_data(self, data):
    if self.tags[-1:] == ['script']:
      self._scripts[-1] += data
    elif self._within and data.strip():
      self.tables[-1][-1].append(data)
    else:
      self.texts.append(data)

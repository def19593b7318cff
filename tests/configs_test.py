"""Configs: complete, locked, and varied by their argument."""

import importlib
import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import ml_collections
import pytest

import gradlens as gl
from gradlens import models
from gradlens.configs import default, pods, toy
from gradlens.setup import build
from gradlens.step.optimizer import CORRECTIONS, make_optimizer

_FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
_NAMES = sorted(
    path.stem for path in _FOLDER.glob('*.py')
    if path.stem not in ('__init__', 'default', 'pods')
)
# Of models that are not here, on devices that are not here.
_PODS = ('multidomain', 'singledomain')
# What a config adds to: the tasks' names, and the correction's own arguments.
_OPEN = ('tasks', 'correction.kwargs', 'mixture.kwargs', 'mixture.active')


def load(name, *arg):
  module = importlib.import_module(f'gradlens.configs.{name}')
  return module.get_config(*arg)


def types(config, prefix=''):
  """{dotted key: type of its value}, without what stands open."""
  found = {}
  for key, value in config.items():
    key = prefix + key
    if key in _OPEN:
      continue
    if isinstance(value, ml_collections.ConfigDict):
      found |= types(value, f'{key}.')
    else:
      found[key] = type(value)
  return found


class ConfigsTest(parameterized.TestCase):

  def test_there_are_configs(self):
    self.assertContainsSubset({'toy', 'warm_start'}, _NAMES)

  @parameterized.parameters(*_NAMES)
  def test_has_the_keys_of_the_defaults_and_is_locked(self, name):
    config = load(name)
    self.assertEqual(types(config), types(default.get_config()))
    self.assertTrue(config.is_locked)
    with self.assertRaises(AttributeError):
      config.optimizer.lr = 1.0
    self.assertNotEmpty(config.tasks)
    for spec in config.tasks.values():
      self.assertCountEqual(
          set(spec) - {'verifier'}, ['source', 'pattern', 'template']
      )

  @parameterized.parameters(*_NAMES)
  def test_takes_an_argument(self, name):
    self.assertEqual(load(name, 'num_steps=7,seed=3').num_steps, 7)
    self.assertEqual(load(name, None), load(name))

  @pytest.mark.slow
  @parameterized.parameters(*(set(_NAMES) - set(_PODS)))
  def test_its_tasks_fit_its_model(self, name):
    run = build.setup(load(name))
    self.assertEqual(run.names, list(load(name).tasks))

  @pytest.mark.slow
  @parameterized.parameters(*_PODS)
  def test_tasks_of_a_pod_on_made_up_records(self, name):
    config = load(name, 'tiny')
    self.assertEqual(types(config), types(default.get_config()))
    run = build.setup(config)
    self.assertEqual(run.names, list(load(name).tasks))
    for task, real in zip(run.tasks, load(name).tasks.values(), strict=True):
      # Not one is too long, nor is what stands around the question lost.
      self.assertGreaterEqual(len(task.train), 200)
      self.assertLen(task.heldout, 16)
      words = real.template.partition('}')[2].strip().format()
      self.assertEndsWith(task.train[0].prompt, words)

  @parameterized.product(name=_PODS, model=tuple(pods.MODELS))
  def test_models_of_a_pod(self, name, model):
    config = load(name, f'model={model},seed=3')
    self.assertEqual(config.seed, 3)
    hub, sizes = pods.MODELS[model]
    self.assertEqual(config.init_from, hub)
    self.assertEqual(config.model.to_dict(), sizes)
    built = models.build(models.DecoderConfig(**sizes))
    params = jax.eval_shape(lambda: models.init(built, jax.random.key(0)))
    billions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e9
    # As published, the embedding counted once.
    self.assertAlmostEqual(billions, dict(
        qwen2_5_7b=7.62, qwen2_5_3b=3.09, llama3_2_3b=3.21, qwen3_1_7b=1.72,
    )[model], delta=0.005)

  def test_refuses_another_model(self):
    with self.assertRaisesRegex(ValueError, 'model=gpt: choose one of qwen2_5'):
      load('multidomain', 'model=gpt')


class ArgumentTest(parameterized.TestCase):

  @parameterized.parameters(
      ('correction=pcgrad', 'correction.name', 'pcgrad'),
      ('correction.name=pcgrad', 'correction.name', 'pcgrad'),
      ('num_steps=3', 'num_steps', 3),
      ('optimizer.learning_rate=1e-4', 'optimizer.learning_rate', 1e-4),
      ('log_seconds=2', 'log_seconds', 2.0),
      ('correction.match_norm=True', 'correction.match_norm', True),
      ('correction.match_norm=False', 'correction.match_norm', False),
      ('init_from=', 'init_from', ''),
      ('init_from=a/b=c', 'init_from', 'a/b=c'),
      ('num_steps=3,seed=2,', 'seed', 2),
      ('seed=1,seed=2', 'seed', 2),
  )
  def test_sets_a_key(self, arg, key, expected):
    changed = toy.get_config(arg)
    got = changed
    for name in key.split('.'):
      got = got[name]
    self.assertEqual(got, expected)
    self.assertIs(type(got), type(expected))
    self.assertEqual(types(changed), types(toy.get_config()))

  @parameterized.parameters('', None)
  def test_nothing_changes_nothing(self, arg):
    self.assertEqual(toy.get_config(arg), toy.get_config())

  @parameterized.parameters(
      ('smoke', "'smoke' is not of the form key=value"),
      ('num_stepz=3', "'num_stepz=3': there is no key 'num_stepz'"),
      ('optimizer.lr=3', "'optimizer.lr=3': there is no key 'optimizer.lr'"),
      ('seed.more=3', "'seed.more=3': there is no key 'seed.more'"),
      ('num_steps=3.5', "'num_steps=3.5': '3.5' is no int.*num_steps is 60"),
      ('num_steps=', "'num_steps=': '' is no int"),
      ('log_seconds=soon', "'log_seconds=soon': 'soon' is no float"),
      # bool('no') is True.
      ('correction.match_norm=no', "match_norm=no': 'no' is no bool"),
      ('loss=token_mean', "'loss=token_mean': there is no key 'loss' with a"),
  )
  def test_refuses_in_one_line(self, arg, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      toy.get_config(arg)
    self.assertNotIn('\n', str(caught.exception))


class CorrectionsTest(parameterized.TestCase):

  @parameterized.product(
      name=tuple(CORRECTIONS), blocks=('global', 'layer')
  )
  def test_builds(self, name, blocks):
    config = toy.get_config(f'correction={name},correction.blocks={blocks}')
    num_tasks = len(config.tasks)
    if name == 'constant':
      with config.unlocked():
        config.correction.kwargs = dict(weights=[1.0] * num_tasks)
    optimizer = make_optimizer(config, num_tasks, None)
    params = dict(
        embed=jnp.ones(3), layers=dict(up=jnp.ones((2, 5)))
    )
    # What GRPO's step hands to a weighting.
    extras = dict.fromkeys(('rewards_K', 'losses_K'), jnp.ones(num_tasks))
    gl.check(
        optimizer.corrected, params, num_tasks=num_tasks,
        num_splits=config.num_splits, **extras,
    )
    # Two forms of one chain: the plain one's state is the other's rest.
    correction, *rest = optimizer.corrected.init(params)
    self.assertIsInstance(correction, gl.CorrectState)
    jax.tree.map(
        self.assertArrayEqual, tuple(rest), optimizer.plain.init(params)
    )

  def assertArrayEqual(self, got, expected):
    self.assertEqual(got.shape, expected.shape)
    self.assertTrue(bool((got == expected).all()))


if __name__ == '__main__':
  absltest.main()

"""All weightings, rows that break careless algebra, and one step of each."""

import functools

from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

TARGETS = ('unit', 'min', 'mean', 'median', 'geometric', 'max')

# constant() is the one that has to know K.
WEIGHTINGS = {
    'total': lambda num_tasks: gl.total(),
    'mean': lambda num_tasks: gl.mean(),
    'constant': lambda num_tasks: gl.constant(np.arange(1, num_tasks + 1)),
    'random_weights': lambda num_tasks: gl.random_weights(),
    'random_dirichlet': lambda num_tasks: gl.random_weights('dirichlet'),
    'stateless': lambda num_tasks: gl.stateless(
        lambda gram_KxK: jnp.ones(len(gram_KxK)) / (
            1 + jnp.abs(jnp.trace(gram_KxK)))
    ),
    'imtl_g': lambda num_tasks: gl.imtl_g(),
    'mgda': lambda num_tasks: gl.mgda(),
    'cagrad': lambda num_tasks: gl.cagrad(),
    'pcgrad': lambda num_tasks: gl.pcgrad(),
    'upgrad': lambda num_tasks: gl.upgrad(),
    'upgrad_regularized': lambda num_tasks: gl.upgrad(reg_eps=1e-4),
    'dual_proj': lambda num_tasks: gl.dual_proj(),
    'aligned_mtl': lambda num_tasks: gl.aligned_mtl(),
    'aligned_mtl_median': lambda num_tasks: gl.aligned_mtl('median'),
    'nash_mtl': lambda num_tasks: gl.nash_mtl(),
    'fairgrad': lambda num_tasks: gl.fairgrad(),
    'fairgrad_2': lambda num_tasks: gl.fairgrad(2.0),
    'conflict_free': lambda num_tasks: gl.conflict_free(),
    'gradvac': lambda num_tasks: gl.gradvac(),
    'gradnorm': lambda num_tasks: gl.gradnorm(),
    'modo': lambda num_tasks: gl.modo(),
    # At a learning rate of 10, rounding of 1e-7 in the Gram matrix moves the
    # update by up to 3e-2, in float64 as well.
    'sdmgrad': lambda num_tasks: gl.sdmgrad(learning_rate=0.1),
    'mt_grpo': lambda num_tasks: gl.mt_grpo(),
    'famo': lambda num_tasks: gl.famo(),
    'uncertainty_weighting': lambda num_tasks: gl.uncertainty_weighting(),
    'dwa': lambda num_tasks: gl.dwa(),
    'stch': lambda num_tasks: gl.stch(),
    'krum': lambda num_tasks: gl.krum(),
    'pcd': lambda num_tasks: gl.pcd(),
    'ema_gram': lambda num_tasks: gl.ema_gram(gl.upgrad()),
    'cr_mogm': lambda num_tasks: gl.cr_mogm(gl.pcgrad()),
    'clip_weights': lambda num_tasks: gl.clip_weights(gl.mgda(), 0.1, 2.0),
    **{
        f'equalize_{target}': lambda num_tasks, t=target: gl.equalize_norms(t)
        for target in TARGETS
    },
}
every_weighting = parameterized.named_parameters(*WEIGHTINGS.items())

# Random draws and constant's given weights belong to positions; ties of krum
# are broken by position.
POSITIONAL = (
    'pcgrad', 'constant', 'random_weights', 'random_dirichlet', 'gradvac',
    'cr_mogm', 'pcd',  # the first task is its primary one
)
EQUIVARIANT = [n for n in WEIGHTINGS if n not in POSITIONAL]


def normal(*shape, seed=0):
  """Standard normal, seeded."""
  return np.random.default_rng(seed).normal(size=shape)


def hard_rows():
  """Task gradients that break careless algebra, by name."""
  powers = np.logspace(-10, 10, 3)[:, None]
  yield 'zero', np.zeros((3, 5))
  for scale in (1e-10, 1e-5, 1.0, 1e5, 1e10):
    yield f'scale {scale}', scale * normal(3, 5)
  yield 'mixed scales', powers * normal(3, 5)
  yield 'mixed scales, one zero', powers * normal(3, 5) * [[1], [0], [1]]
  yield 'one zero', normal(3, 5) * [[1], [0], [1]]
  yield 'only one', normal(3, 5) * [[0], [1], [0]]
  yield 'duplicates', np.tile(normal(1, 5), (3, 1))
  yield 'opposite', normal(1, 5) * [[1], [-1], [-1e-3]]
  yield 'dependent', normal(3, 1) @ normal(1, 5)
  yield 'K=1', normal(1, 5)
  yield 'K=1, zero', np.zeros((1, 5))
  yield 'nearly dependent', normal(1, 9) + 1e-4 * normal(3, 9, seed=1)
  yield 'K=64', normal(64, 100)
  yield 'K=64, dependent', normal(64, 3) @ normal(3, 5)


def extras(num_tasks, gram_KxK):
  """All that a weighting may ask for, different for every task."""
  # None is the average of all: Adam would make a step of its rounding.
  levels_K = jnp.linspace(0.3, 0.9, num_tasks) ** 2
  return dict(
      losses_K=1 - levels_K, rewards_K=levels_K, gram_cross_KxK=gram_KxK
  )


@functools.cache
def jitted(weighting):
  """A step on rows, with all extras."""

  def step(rows, state, order_K):
    gram_KxK = gl.gram(rows)
    own = extras(len(rows), gram_KxK)
    for name in ('losses_K', 'rewards_K'):
      own[name] = own[name][order_K]
    return weighting.update(gram_KxK, state, **own)

  return jax.jit(step)


def weights_of(weighting, rows, state=None, order=None):
  """The weights of fresh rows, as float32 numpy."""
  state = weighting.init(len(rows)) if state is None else state
  order = np.arange(len(rows)) if order is None else order
  weights_K, _ = jitted(weighting)(
      jnp.asarray(rows, jnp.float32), state, order
  )
  return np.asarray(weights_K)


def direction_error(weights_K, rows, want):
  """Of the update `w @ J`, relative to the expected one's length."""
  got = np.asarray(weights_K, np.float64) @ rows
  return np.linalg.norm(got - want) / np.linalg.norm(want)

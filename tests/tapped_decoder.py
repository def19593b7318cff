"""A small language model made of taps, and its gradients row by row.

R rows of B sequences of L tokens; a row's loss is a policy gradient's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl

R, B, L, V, D, F, LAYERS = 4, 2, 6, 17, 8, 12, 3


def params(tied, seed=0):
  """Random parameters; with `tied`, the embedding is the head as well."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape) * 0.3, jnp.float32)

  head = {'scale': 1 + normal(D)}
  if not tied:
    head['out'] = normal(D, V)
  return {
      'embed': {'table': normal(V, D), 'position': normal(L, D)},
      'layers': {
          'mix': normal(LAYERS, D, D), 'up': normal(LAYERS, D, F),
          'down': normal(LAYERS, F, D), 'bias': normal(LAYERS, F),
      },
      'head': head,
  }


def batch(num_rows=R, seed=1, size=B):
  """Tokens `[R, B, L]` and advantages `[R, B]`."""
  rng = np.random.default_rng(seed)
  tokens = jnp.asarray(rng.integers(0, V, (num_rows, size, L)))
  scale = np.arange(1, num_rows + 1)[:, None]
  advantages = rng.normal(size=(num_rows, size)) * scale
  return tokens, jnp.asarray(advantages, jnp.float32)


def embed(p, tokens_BxL):
  """Of one row."""
  return p['table'][tokens_BxL] + p['position'][None]


def layer(p, x_BxLxD, mask_LxL):
  """Attention by position only, and a feed-forward part."""
  x_BxLxD = x_BxLxD + jnp.einsum('ml,bld->bmd', mask_LxL, x_BxLxD @ p['mix'])
  hidden = jnp.tanh(x_BxLxD @ p['up'] + p['bias'][None, None])
  return x_BxLxD + hidden @ p['down']


def head(p, x, out_DxV):
  """The row's loss, from final states, tokens and advantages."""
  x_BxLxD, tokens_BxL, advantages_B = x
  logits = (x_BxLxD * p['scale'][None, None])[:, :-1] @ out_DxV
  chosen = jnp.take_along_axis(
      jax.nn.log_softmax(logits), tokens_BxL[:, 1:, None], axis=-1
  )
  return -jnp.mean(chosen[..., 0] * advantages_B[:, None])


def head_untied(p, x):
  """`head` with weights of its own."""
  return head(p, x, p['out'])


def head_tied(p, x, table_VxD):
  """`head` with the embedding's."""
  return head(p, x, table_VxD.T)


def mask():
  """Every position sees the mean of itself and those before it."""
  lower = np.tril(np.ones((L, L)))
  return jnp.asarray(lower / lower.sum(1, keepdims=True), jnp.float32)


def losses_fn(tied, p, probes, tokens_RxBxL, advantages_RxB, **options):
  """The model out of taps: embedding, scanned layers, head."""
  tap = functools.partial(gl.tap, **options)
  owns = (lambda p: p['table']) if tied else None
  x_R = tap(embed, owns=owns)(p['embed'], tokens_RxBxL, probes['embed'])
  x_R, shared = x_R if tied else (x_R, None)
  tapped_layer = tap(layer, extra_axes=None)
  mask_LxL = mask()

  def step(x_R, layer_and_probe):
    own, probe = layer_and_probe
    return tapped_layer(own, x_R, probe, mask_LxL), None

  x_R, _ = jax.lax.scan(step, x_R, (p['layers'], probes['layers']))
  tapped_head = tap(head_tied if tied else head_untied)
  return tapped_head(
      p['head'], (x_R, tokens_RxBxL, advantages_RxB), probes['head'],
      shared=shared,
  )


def row_loss(tied, p, tokens_BxL, advantages_B):
  """One row's loss without any tap or scan: the oracle."""
  x = embed(p['embed'], tokens_BxL)
  for i in range(LAYERS):
    x = layer(jax.tree.map(lambda a, i=i: a[i], p['layers']), x, mask())
  own = p['head'], (x, tokens_BxL, advantages_B)
  return head_tied(*own, p['embed']['table']) if tied else head_untied(*own)


@functools.partial(jax.jit, static_argnums=0)
def _grad(tied, p, *row):
  return jax.grad(functools.partial(row_loss, tied))(p, *row)


def rows(tied, p, data):
  """Every row's gradient, one at a time: a list of pytrees."""
  count = len(data[0])
  return [_grad(tied, p, *(leaf[r] for leaf in data)) for r in range(count)]


def flat(tree):
  """A pytree as one float64 vector."""
  return np.concatenate([
      np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)
  ])


def matrix(trees):
  """Gradients of rows as a float64 matrix `[R, N]`."""
  return np.stack([flat(tree) for tree in trees])


def probes(num_rows=R, **kwargs):
  """One probe for each block."""
  return {
      'embed': gl.Probe(num_rows, **kwargs),
      'layers': gl.Probe(num_rows, LAYERS, **kwargs),
      'head': gl.Probe(num_rows, **kwargs),
  }


def relative(got, want):
  """Error against the largest entry."""
  return np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()


def whole(grams, num_rows=R):
  """The sum over blocks and layers."""
  return sum(
      np.asarray(g, np.float64).reshape(-1, num_rows, num_rows).sum(0)
      for g in jax.tree.leaves(grams)
  )

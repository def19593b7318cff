"""A batch's joint loss, written another way: the oracle of the step's tests.

No task axis and no padding: sequences packed to the left, one entry for every
sampled token (M of them), and a weight for each in place of sums and counts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gradlens import models
from gradlens.experience import Batch

K, B, G, T, C, V = 3, 4, 3, 6, 5, 30
EMPTY = 1  # the task without a token
TEMPERATURE = 0.8
CLIP_LOW, CLIP_HIGH = 0.3, 0.2


@functools.cache
def policy():
  """A small decoder whose predictions are far from uniform."""
  model = models.build(models.DecoderConfig(
      model_type='qwen3', vocab_size=V, hidden_size=16, intermediate_size=24,
      num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
      head_dim=8, max_position_embeddings=64, initializer_range=0.3,
  ))
  return model, models.init(model, jax.random.key(0))


# Weights of each task's one reward.
ONE_KxM = np.ones((K, 1))


def random_batch(seed=0):
  """Prompts and completions of all lengths, from another policy."""
  rng = np.random.default_rng(seed)
  prompt_mask = np.arange(T) >= rng.integers(0, T, (K, B, 1))
  lengths = rng.integers(1, C + 1, (K, B, G, 1))
  lengths[EMPTY] = lengths[0, 0, 0] = 0
  mask = np.arange(C) < lengths
  rewards = rng.integers(0, 2, (K, B, G)).astype(np.float32)
  rewards[..., :2] = 0, 1
  logprobs = rng.normal(-np.log(V), 0.4, mask.shape).astype(np.float32)
  return Batch(
      rng.integers(2, V, prompt_mask.shape, np.int32) * prompt_mask,
      prompt_mask, rng.integers(1, V, mask.shape, np.int32) * mask, mask,
      logprobs * mask, rewards, rewards[..., None],
  )


def token_weights(batch, aggregate='sequence_mean', normalize='batch'):
  """What each token's loss is multiplied by, in float64: `[K, B, G, C]`."""
  weights = np.zeros(batch.mask_KxBxGxC.shape)
  lengths = batch.mask_KxBxGxC.sum(-1)
  for k, b, g in np.ndindex(lengths.shape):
    among = lengths if normalize == 'batch' else lengths[k]
    completions, tokens = np.count_nonzero(among), among.sum()
    own = lengths[k, b, g]
    if own:
      count = dict(
          token_mean=tokens, sequence_mean=completions * own,
          fixed_length=completions * C,
      )[aggregate]
      tasks = 1 if normalize == 'batch' else K
      weights[k, b, g, :own] = 1 / (count * tasks)
  return weights


def advantages(rewards):
  """By the population's standard deviation, group by group, in float64."""
  out = np.zeros(rewards.shape)
  for group in np.ndindex(rewards.shape[:-1]):
    own = rewards[group].astype(np.float64)
    if len(set(own)) > 1:
      out[group] = (own - own.mean()) / own.std()
  return out


def flatten(batch, weights):
  """Sequences `[K * B * G, T + C]`, and five numbers of each sampled token.

  Those are its row and its position, its log-probability when sampled, its
  advantage and its weight: `[M]` each.
  """
  tokens = np.zeros((K * B * G, T + C), np.int32)
  of_completion = advantages(batch.rewards_KxBxG)
  entries = []
  for row, (k, b, g) in enumerate(np.ndindex(K, B, G)):
    prompt = batch.prompts_KxBxT[k, b][batch.prompt_mask_KxBxT[k, b]]
    own = batch.tokens_KxBxGxC[k, b, g][batch.mask_KxBxGxC[k, b, g]]
    tokens[row, :len(prompt) + len(own)] = np.concatenate([prompt, own])
    entries += [
        (row, len(prompt) + c, batch.logprobs_KxBxGxC[k, b, g, c],
         of_completion[k, b, g], weights[k, b, g, c]) for c in range(len(own))
    ]
  row, position, *numbers = map(np.array, zip(*entries, strict=True))
  return tokens, row, position, *(a.astype(np.float32) for a in numbers)


@jax.jit
def logprobs(params, tokens_NxL, row_M, position_M):
  """The policy's distribution at each sampled token: `[M, V]`."""
  # Packed to the left, so that neither a mask nor positions are needed.
  logits_NxLxV = models.logits(policy()[0], params, tokens_NxL)
  return jax.nn.log_softmax(logits_NxLxV[row_M, position_M - 1] / TEMPERATURE)


@functools.partial(jax.jit, static_argnames='surrogate')
@jax.value_and_grad
def _loss_and_gradient(params, flat, surrogate):
  tokens_NxL, row_M, position_M, sampled_M, advantage_M, weight_M = flat
  logprobs_MxV = logprobs(params, tokens_NxL, row_M, position_M)
  token_M = tokens_NxL[row_M, position_M]
  logprob_M = logprobs_MxV[jnp.arange(len(token_M)), token_M]
  if not surrogate:
    return -jnp.sum(weight_M * logprob_M)
  ratio_M = jnp.exp(logprob_M - sampled_M)
  # Too likely already, or too unlikely: no further push; pulling back is free.
  bounded_M = jnp.where(
      advantage_M > 0, jnp.minimum(ratio_M, 1 + CLIP_HIGH),
      jnp.maximum(ratio_M, 1 - CLIP_LOW),
  )
  return -jnp.sum(weight_M * advantage_M * bounded_M)


def joint(batch, weights, surrogate=True):
  """Loss and gradient of the whole batch: a number, and a flat vector."""
  flat = flatten(batch, weights)
  loss, gradient = _loss_and_gradient(policy()[1], flat, surrogate=surrogate)
  return float(loss), vector(gradient)


def rows(tree, num_rows):
  """A stacked gradient as a float64 matrix, one row for each of its rows."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate([a.reshape(num_rows, -1) for a in leaves], axis=1)


def vector(tree):
  """A gradient, or parameters, as a flat float64 vector."""
  return rows(tree, 1)[0]


def distance(got, want):
  """Between two vectors, relative to the second's length."""
  return np.linalg.norm(got - want) / np.linalg.norm(want)

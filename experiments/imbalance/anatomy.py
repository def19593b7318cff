"""The anatomy of a squared norm, from a token to a task, at fixed parameters.

With g the gradient of a task's own loss, four numbers multiply to its squared
norm, the unbiased one:

    token       E |score of a sampled token|^2, a score being the gradient of
                its log-probability
    response    what is left of it in the mean score of a completion: tokens
                cancel, or do not
    group       what is left of that in the mean of a prompt's completions,
                each times its advantage
    mean        what is left of that in the mean over prompts: their coherence

so that the logarithms of the ratios between tasks add up.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradlens as gl
from gradlens import advantages, models
from gradlens.blocks import whole_gram
from gradlens.experience import Batch
from gradlens.mixture import Mixture
from gradlens.setup import build, sampling
from gradlens.step import objective, rows, task_gradients

CHOSEN = 'chosen'  # 1 at the tokens whose scores are a row


def make_norms(
    model: models.Model, temperature: float, aggregate: str
) -> Callable[..., tuple[jax.Array, Any]]:
  """Of the loss that `Row.logprobs` weighs, and rows of prompts or tokens.

  Returns:
    `f(params, row_R) -> (gram_RxR, grads)`; `grads` are the sum of all rows'.
  """

  def term(scores, row):
    return -scores.logprobs * row.logprobs[CHOSEN], {}

  weighted = objective.supervised()._replace(terms=(term,))
  losses_fn = task_gradients.make_losses(
      model, weighted, temperature=temperature, aggregate=aggregate
  )

  @jax.jit
  def norms(params, row):
    num_rows = len(row.denominator)
    layers = model.config.num_hidden_layers
    probes = dict(
        embed=gl.Probe(num_rows), layers=gl.Probe(num_rows, layers),
        head=gl.Probe(num_rows),
    )
    _, grads, grams = gl.value_grad_gram(
        lambda params, probes: losses_fn({}, params, probes, row), has_aux=True
    )(params, probes)
    return whole_gram(grams), grads

  return norms


def prompt_rows(batch_B: Batch, weights_BxG: jax.Array) -> rows.Row:
  """A row of each prompt: the mean over completions of their mean tokens."""
  g = weights_BxG.shape[1]
  chosen = jnp.broadcast_to(
      weights_BxG[..., None], batch_B.tokens_KxBxGxC.shape
  )
  batch_R, weights_R, chosen_R = jax.tree.map(
      lambda a: jnp.asarray(a)[:, None], (batch_B, weights_BxG, chosen)
  )
  return rows.Row(
      batch_R, weights_R, {CHOSEN: chosen_R}, jnp.full(len(chosen), float(g))
  )


def token_rows(batch_B: Batch) -> rows.Row:
  """A row of each token of each prompt's first completion."""
  first = batch_B._replace(**{
      name: getattr(batch_B, name)[:, :1]
      for name in ('tokens_KxBxGxC', 'mask_KxBxGxC', 'logprobs_KxBxGxC',
                   'rewards_KxBxG', 'parts_KxBxGxM')
  })
  b, _, c = first.tokens_KxBxGxC.shape
  repeated = jax.tree.map(
      lambda a: jnp.repeat(jnp.asarray(a), c, axis=0)[:, None], first
  )
  chosen = jnp.tile(jnp.eye(c), (b, 1))[:, None, None]
  return rows.Row(
      repeated, jnp.ones((b * c, 1, 1)), {CHOSEN: chosen}, jnp.ones(b * c)
  )


def _ratio(part: float, whole: float) -> float:
  """NaN where there was nothing: no completion of a task was any better."""
  return float(part / whole) if whole else math.nan


class Task:
  """What is summed up of one task."""

  def __init__(self) -> None:
    self.tokens, self.mean_tokens, self.responses = [], [], []
    self.prompts, self.grads = [], 0.0

  def add_tokens(self, gram_NxN: np.ndarray, mask_BxC: np.ndarray) -> None:
    """Of token rows."""
    b, c = mask_BxC.shape
    own_BxCxC = np.einsum(
        'bcbd->bcd', gram_NxN.reshape(b, c, b, c)
    )
    for gram, mask in zip(own_BxCxC, mask_BxC, strict=True):
      kept = gram[mask][:, mask]
      self.tokens += np.diag(kept).tolist()
      self.mean_tokens.append(np.trace(kept) / len(kept))
      self.responses.append(kept.sum() / len(kept) ** 2)

  def add_prompts(
      self, gram_BxB: np.ndarray, grads: Any, facts: dict[str, Any]
  ) -> None:
    """Of prompt rows and their sum, and lists of facts on each prompt."""
    self.grads += np.concatenate([
        np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(grads)
    ])
    for b, norm_sq in enumerate(np.diag(gram_BxB)):
      self.prompts.append(
          dict(norm_sq=float(norm_sq))
          | {name: float(values[b]) for name, values in facts.items()}
      )

  def stages(self) -> dict[str, float]:
    """The four factors, and their product."""
    token, response = np.mean(self.tokens), np.mean(self.responses)
    norms_B = np.array([prompt['norm_sq'] for prompt in self.prompts])
    n, group = len(norms_B), np.mean(norms_B)
    # The mean product of two prompts, over all pairs of different ones.
    whole = (self.grads @ self.grads - norms_B.sum()) / (n * (n - 1))
    return dict(
        token=float(token), response=_ratio(response, token),
        group=_ratio(group, response), mean=_ratio(whole, group),
        norm_sq=float(whole),
    )


def measure(config: Any, batches: int, token_prompts: int) -> dict[str, Task]:
  """Samples prompts of every task, and takes their gradients apart."""
  run = build.setup(config)
  temperature = config.rollout.temperature
  of_prompts = make_norms(run.model, temperature, 'sequence_mean')
  of_tokens = make_norms(run.model, temperature, 'token_mean')
  mixture = Mixture(run.tasks, config.prompts_per_task, config.seed)
  state = mixture.init()
  key = jax.random.fold_in(jax.random.key(config.seed), 4)
  sample = sampling.sampler(config, run)
  tasks = {name: Task() for name in run.names}
  policy = models.join(run.params, run.frozen)
  with sampling.verifier(config, run) as verifier:
    collect = sampling.collector(config, run, sample, verifier)
    for i in range(batches):
      draw, state = mixture.draw(state)
      sampled = collect(policy, draw.records, jax.random.fold_in(key, i))
      for k, task in enumerate(tasks.values()):
        own = jax.tree.map(lambda a, k=k: jnp.asarray(a[k]), sampled.batch)
        weights_BxG = advantages.relative(
            own.rewards_KxBxG[None], jnp.ones(len(own.rewards_KxBxG))[None] > 0,
            baseline='group', scale='std', num_splits=1,
        )[0]
        gram_BxB, grads = of_prompts(policy, prompt_rows(own, weights_BxG))
        task.add_prompts(
            np.asarray(gram_BxB, np.float64), grads, _facts(own, weights_BxG)
        )
        few = jax.tree.map(lambda a: a[:token_prompts], own)
        gram_NxN, _ = of_tokens(policy, token_rows(few))
        task.add_tokens(
            np.asarray(gram_NxN, np.float64),
            np.asarray(few.mask_KxBxGxC[:, 0]),
        )
  return tasks


def _facts(batch_B: Batch, weights_BxG: jax.Array) -> dict[str, np.ndarray]:
  mask_BxGxC = np.asarray(batch_B.mask_KxBxGxC)
  surprise = -(np.asarray(batch_B.logprobs_KxBxGxC) * mask_BxGxC).sum((1, 2))
  tokens_B = mask_BxGxC.sum((1, 2))
  return dict(
      reward=np.asarray(batch_B.rewards_KxBxG).mean(1),
      abs_advantage=np.abs(np.asarray(weights_BxG)).mean(1),
      prompt_length=np.asarray(batch_B.prompt_mask_KxBxT).sum(1),
      length=mask_BxGxC.sum(2).mean(1),
      surprise=surprise / tokens_B,
  )

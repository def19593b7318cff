"""The sampler: prompts to completions, by a compiled loop or another engine."""

from collections.abc import Iterator
import functools
import logging
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gradlens import hosts, models
from gradlens.rollout.generate import generate_on
from gradlens.rollout.memory import check_memory
from gradlens.rollout.slots import Completions

_log = logging.getLogger(__name__)

_SHORTEST = 16  # tokens of the smallest bucket


class Sampler(Protocol):
  """Completions from the policy of given parameters; an engine's one call."""

  def __call__(
      self, params: Any, prompts_NxT: np.ndarray, mask_NxT: np.ndarray,
      keys_NxG: jax.Array,
  ) -> Completions:
    """Samples G completions of each prompt.

    Args:
      params: of the policy, as they are now.
      prompts_NxT: int32 tokens, padded on the left.
      mask_NxT: bool, True on tokens.
      keys_NxG: typed PRNG keys, one a completion.

    Returns:
      `Completions` of up to `max_new_tokens` tokens. They go into the loss as
      they are: no text is tokenized again.
    """


class MakeSampler(Protocol):
  """A sampler for a run; what `train.train(make_sampler=)` takes."""

  def __call__(
      self, model: models.Model, *, max_new_tokens: int, temperature: float,
      stop_tokens: tuple[int, ...], top_k: int | None, num_slots: int | None,
  ) -> Sampler:
    """See `make_sampler`."""


def request_keys(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """One key per request, from its number alone."""
  numbers = jnp.arange(functools.reduce(int.__mul__, shape, 1))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers).reshape(shape)


def bucket(length: int, longest: int) -> int:
  """The length to which a prompt is padded: a power of two, or the longest."""
  return min(max(_SHORTEST, 1 << (length - 1).bit_length()), longest)


def _queues(
    mask_NxT: np.ndarray, num_slots: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Prompts of one bucket each, by number, and the bucket.

  A queue's length is a power of two times the slots: then prompts that are none
  (-1) come last. There are few such lengths, and each is compiled once.
  """
  longest = mask_NxT.shape[1]
  buckets = np.array([bucket(int(n), longest) for n in mask_NxT.sum(axis=1)])
  for size in np.unique(buckets):
    (own,) = np.nonzero(buckets == size)
    rounds = -(-len(own) // num_slots)
    length = num_slots << (rounds - 1).bit_length()
    yield int(size), np.pad(own, (0, length - len(own)), constant_values=-1)


def _spread(mesh: Mesh | None, *arrays: np.ndarray) -> tuple[Any, ...]:
  """To the devices that sample them, by the hosts that have these."""
  if mesh is None:
    return arrays
  own = NamedSharding(mesh, PartitionSpec(models.DATA))
  return tuple(hosts.spread(a, own) for a in arrays)


def make_sampler(
    model: models.Model,
    *,
    max_new_tokens: int,
    temperature: float,
    stop_tokens: tuple[int, ...],
    top_k: int | None = None,
    top_p: float = 1.0,
    num_slots: int | None = None,
    mesh: Mesh | None = None,
) -> Sampler:
  """The policy's own sampler; see `generate` for the arguments.

  With `num_slots`, prompts are padded to the next power of two only and decoded
  with others of that length. A completion depends on its own prompt and key,
  bit for bit.

  On a mesh, from `models.make_mesh`, prompts and slots are divided among its
  data axes, and the cache by heads over 'tensor'. Completions stay where they
  were sampled; with `num_slots` every host gets all of them.

  Raises:
    ValueError: slots that are none, or that the mesh does not divide; when
      called, another argument that makes no sense, or a cache that needs more
      memory than there is.
  """
  groups = 1 if mesh is None else math.prod(
      mesh.shape[axis] for axis in models.DATA
  )
  if num_slots is not None and num_slots < 1:
    raise ValueError(f'num_slots={num_slots} must be None or at least 1.')
  if num_slots is not None and num_slots % groups:
    raise ValueError(
        f'num_slots={num_slots} cannot be divided by the {groups} devices of'
        " the data axes, 'task' and 'fsdp'."
    )
  options = dict(
      max_new_tokens=max_new_tokens, temperature=temperature,
      stop_tokens=stop_tokens, top_k=top_k, top_p=top_p,
  )
  shapes = set()

  def run(params, prompts_NxT, mask_NxT, kind, data_NxGxk, slots):
    n, t = prompts_NxT.shape
    g = data_NxGxk.shape[1]
    if (n, t, g) not in shapes:
      check_memory(
          model, params, n // groups, g, t, max_new_tokens,
          slots and slots // groups, mesh,
      )
      shapes.add((n, t, g))
      _log.info(
          'sampler: shape %d, %d prompts of up to %d tokens', len(shapes), n, t
      )
    *asked, data_NxGxk = _spread(mesh, prompts_NxT, mask_NxT, data_NxGxk)
    keys_NxG = jax.random.wrap_key_data(data_NxGxk, impl=kind)
    return generate_on(mesh)(
        model, params, *asked, keys_NxG, num_slots=slots and slots // groups,
        **options,
    )

  def sampler(params, prompts_NxT, mask_NxT, keys_NxG):
    # As numbers: what is done to keys on a device waits for its other work.
    kind = jax.random.key_impl(keys_NxG)
    data_NxGxk = np.asarray(jax.random.key_data(keys_NxG))
    if num_slots is None:
      n = len(prompts_NxT)
      padding = [(0, -n % groups), (0, 0)]  # prompts that are none
      found = run(
          params, np.pad(prompts_NxT, padding), np.pad(mask_NxT, padding),
          kind, data_NxGxk[np.arange(n + -n % groups) % n], None,
      )
      return jax.tree.map(lambda a: a[:n], found)
    parts, places = [], []
    for size, queue_M in _queues(np.asarray(mask_NxT), num_slots):
      real_M = queue_M >= 0
      found = run(
          params,
          np.asarray(prompts_NxT)[queue_M, -size:],
          np.asarray(mask_NxT)[queue_M, -size:] & real_M[:, None],
          kind,
          data_NxGxk[queue_M],
          num_slots,
      )
      parts.append(found)
      places.append(queue_M)
    # Read when devices have been given all of it.
    parts = zip(*map(hosts.whole, parts), strict=True)
    queued_M = np.concatenate(places)
    order_M = np.argsort(queued_M)[(queued_M < 0).sum():]
    return Completions(*(np.concatenate(own)[order_M] for own in parts))

  return sampler

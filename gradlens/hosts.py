"""Hosts: the processes that a run has, what each does, and what all are told.

Every host runs the same program on devices of its own. What they compute
together is in arrays over all devices; here is what they do beside it.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import logging
import os
import sys
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

_log = logging.getLogger(__name__)


def start(
    coordinator: str | None, num_hosts: int | None, host: int | None
) -> None:
  """Joins the other hosts; before anything else that uses a device.

  Args:
    coordinator: `address:port` of host 0, the same for all. None asks the
      cluster: a Cloud TPU, Slurm or Open MPI knows; elsewhere there is one
      host.
    num_hosts: how many there are.
    host: which one this is, from 0.

  Raises:
    ValueError: some of the three are given, and not all, or make no sense.
  """
  given = dict(coordinator=coordinator, num_hosts=num_hosts, host=host)
  missing = [name for name, value in given.items() if value is None]
  if len(missing) < len(given):
    if missing:
      raise ValueError(
          f'--{" and --".join(missing)} must be given too: --coordinator,'
          ' --num_hosts and --host belong together.'
      )
    if not 0 <= host < num_hosts:
      raise ValueError(
          f'--host={host} must be from 0 to {num_hosts - 1}, since'
          f' --num_hosts={num_hosts}.'
      )
    jax.distributed.initialize(coordinator, num_hosts, host)
  elif jax.config.jax_platforms != 'cpu':
    try:
      jax.distributed.initialize()
    except ValueError as error:  # where there is no cluster to ask
      _log.debug('one host: %s', error)
  if jax.process_count() > 1:
    _log.info('host %d of %d', jax.process_index(), jax.process_count())


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
  """Arrays are computed by the CPU: devices finish first what they have to do.

  Unless JAX_PLATFORMS leaves the CPU out.
  """
  try:
    [cpu, *_] = jax.local_devices(backend='cpu')
  except RuntimeError as error:
    _log.debug('small arrays wait for the devices: %s', error)
    yield
    return
  with jax.default_device(cpu):
    yield


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Around a host's work: one that fails ends at once, and then the others do.

  Jax has a process wait at its end for all others; these would wait for what
  it was to compute with them.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    if isinstance(error, jax.errors.JaxRuntimeError):
      traceback.print_exc()
      print(
          'gradlens: the devices of all hosts failed together; was a host lost?'
          ' Start all hosts again: they go on from the last checkpoint.',
          file=sys.stderr,
      )
    elif isinstance(error, SystemExit):
      print(error, file=sys.stderr)  # a sentence
    else:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def first() -> bool:
  """Whether this host is the one that writes."""
  return jax.process_index() == 0


def texts(own: str) -> list[str]:
  """What every host says."""
  if jax.process_count() == 1:
    return [own]
  data = np.frombuffer(own.encode(), np.uint8)
  sizes_H = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.zeros(max(1, sizes_H.max()), np.uint8)
  padded[: len(data)] = data
  everyone = multihost_utils.process_allgather(padded)
  return [
      bytes(row[:size]).decode()
      for row, size in zip(everyone, sizes_H, strict=True)
  ]


def agree(work: Callable[[], Any]) -> Any:
  """Does on every host what may fail on any; then either all go on or none.

  Raises:
    ValueError: what the work raised on some host (that, or that there is no
      file), on every one.
  """
  if jax.process_count() == 1:
    return work()
  problem, result = '', None
  try:
    result = work()
  except (ValueError, FileNotFoundError) as error:
    problem = str(error)
  for host, found in enumerate(texts(problem)):
    if found:
      raise ValueError(f'host {host}: {found}')
  return result


def by_first(work: Callable[[], Any]) -> None:
  """Has the first host do what is done once; the others wait for it.

  Raises:
    ValueError: what the work raised, on every host.
  """
  agree(lambda: work() if first() else None)


def from_first(value: Any) -> Any:
  """What the first host says, on all of them; JSON-able."""
  return json.loads(texts(json.dumps(value))[0])


def wait() -> None:
  """For all hosts to come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('wait')


def check_same(facts: Mapping[str, Any]) -> None:
  """Refuses hosts that were started with other things than the first.

  Args:
    facts: JSON-able.

  Raises:
    ValueError: on every host, with what differs where.
  """
  own = json.loads(json.dumps(facts))
  of_first = from_first(own)
  differences = '; '.join(
      f'{key} is {own.get(key)!r}, and {of_first.get(key)!r} on host 0'
      for key in sorted(own.keys() | of_first.keys())
      if own.get(key) != of_first.get(key)
  )
  for host, found in enumerate(texts(differences)):
    if found:
      raise ValueError(
          f'host {host} was started with something else: {found}. Give all'
          ' hosts the same.'
      )


def own_rows(array: Any) -> np.ndarray:
  """Numbers of the rows of an array that are this host's to work on.

  Each row is one host's, of those whose devices have it.
  """
  hosts = range(jax.process_count())
  holders = {(0, len(array)): set(hosts)}
  if not _addressable(array):
    holders = {}
    for device, index in array.sharding.devices_indices_map(
        array.shape
    ).items():
      start, stop, _ = index[0].indices(len(array))
      holders.setdefault((start, stop), set()).add(device.process_index)
  numbers = []
  for (start, stop), found in holders.items():
    found = sorted(found)
    numbers += [
        n for n in range(start, stop)
        if found[n % len(found)] == jax.process_index()
    ]
  return np.array(sorted(numbers), int)


def _addressable(array: Any) -> bool:
  return not isinstance(array, jax.Array) or array.is_fully_addressable


def read(array: Any, rows: np.ndarray) -> np.ndarray:
  """Rows that devices of this host have (see `own_rows`)."""
  if _addressable(array):
    return np.asarray(array)[rows]
  parts = {
      shard.index[0].indices(len(array))[0]: shard.data
      for shard in array.addressable_shards
  }
  numbers = np.concatenate(
      [start + np.arange(len(part)) for start, part in parts.items()]
  )
  values = np.concatenate([np.asarray(part) for part in parts.values()])
  order = np.argsort(numbers)
  return values[order[np.searchsorted(numbers, rows, sorter=order)]]


def share(values: np.ndarray, rows: np.ndarray, num_rows: int) -> np.ndarray:
  """Every host's own rows, on all hosts."""
  whole_N = np.zeros((num_rows, *values.shape[1:]), values.dtype)
  whole_N[rows] = values
  if jax.process_count() == 1:
    return whole_N
  everyone = multihost_utils.process_allgather(whole_N)
  return everyone.sum(axis=0, dtype=values.dtype)


def whole(tree: Any) -> Any:
  """Arrays over all devices as numpy arrays, on all hosts."""
  return jax.tree.map(
      lambda a: np.asarray(a) if _addressable(a)
      else multihost_utils.process_allgather(a, tiled=True),
      tree,
  )


def spread(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """An array that all hosts have, over all devices: each feeds its own."""
  return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
  )


def ending(asked: bool, step: int) -> bool:
  """Whether the run is to end after this step, since a host is to end.

  To be asked after every step. All hosts are told so after the same step: jax
  hears the SIGTERM of any of them, and agrees on one.
  """
  if jax.process_count() == 1:
    return asked
  return multihost_utils.reached_preemption_sync_point(step)

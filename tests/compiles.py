"""How often functions are compiled."""

import collections
from collections.abc import Iterator
import contextlib

import jax


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter]:
  """Counts compiled functions by name, `jit(NAME)`, until it is left."""
  names = collections.Counter()

  def count(event, seconds, fun_name='', **unused):
    if event.endswith('backend_compile_duration'):
      names[fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(count)
  try:
    yield names
  finally:
    jax.monitoring.unregister_event_duration_listener(count)

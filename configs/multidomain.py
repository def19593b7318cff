"""Four tasks of different domains, for a pod.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/multidomain.py:model=qwen2_5_7b

`model=` is one of `pods.MODELS`.
"""

import ml_collections

from gradlens.configs import pods


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on logic, words, arithmetic and number theory."""
  return pods.get_config(dict(
      arithmetic='rg:basic_arithmetic',
      logic='rg:knights_knaves',
      primes='rg:count_primes',
      words='rg:gsm_symbolic',
  ), arg)

"""Three tasks of one domain, for a pod.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/singledomain.py:model=qwen2_5_3b,prompts_per_task=64

`model=` is one of `pods.MODELS`.
"""

import ml_collections

from gradlens.configs import pods


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on mathematics: arithmetic, equations and words."""
  return pods.get_config(dict(
      arithmetic='rg:basic_arithmetic',
      equations='rg:simple_equations',
      words='rg:gsm_symbolic',
  ), arg)

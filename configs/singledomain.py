"""Three tasks of one domain, mathematics, on a slice of TPUs.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/singledomain.py:model=qwen2_5_3b,prompts_per_task=64

They stand where the study of multi-task RL has DeepScaleR, MATH and Arithmetic,
which gradlens does not read. A prompt is 656 bytes at most, before the chat
template.

`model=` is one of `pods.MODELS`; further keys follow. Three tasks of two splits
are six rows, of which `mesh.task=8` makes two groups of devices (docs/pods.md):
a row's prompts, half of `prompts_per_task`, have to be a multiple of the 32
devices that a group of v5p:4x4x4 has.
"""

import ml_collections

from gradlens.configs import pods


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on arithmetic, equations and words."""
  return pods.get_config(dict(
      arithmetic='rg:basic_arithmetic',
      equations='rg:simple_equations',
      words='rg:gsm_symbolic',
  ), arg)

"""Three tasks of one domain, mathematics, on a slice of TPUs.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/singledomain.py:model=qwen2_5_3b,prompts_per_task=64

DeepScaleR, MATH and Arithmetic, as in the study of gradient imbalance (Wu et
al., 2025, arXiv 2510.19178); docs/tasks.md says which data these are.

`model=` is one of `pods.MODELS`; further keys follow, or `tiny`, as in
`multidomain.py`. Three tasks of two splits are six rows, of which `mesh.task=8`
makes two groups of devices (docs/pods.md): a row's prompts, half of
`prompts_per_task`, have to be a multiple of the 32 devices that a group of
v5p:4x4x4 has.
"""

import ml_collections

from gradlens.configs import pods

_BOX = '{question}\n\nThink step by step, and put the answer in \\boxed{{}}.'


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on arithmetic, DeepScaleR and MATH."""
  sources = dict(
      arithmetic='tfds:arithmetic', deepscaler='tfds:deepscaler',
      math='tfds:math?heldout=math500:test',
  )
  return pods.get_config({
      name: dict(source=source, template=_BOX, verifier='math')
      for name, source in sources.items()
  }, arg)

"""Four tasks of different domains, on a slice of 64 TPU chips.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/multidomain.py:model=qwen2_5_7b
    python -m gradlens.main --workdir=gs://BUCKET/RUN \
      --config=configs/multidomain.py:model=qwen2_5_7b

They stand where the study of multi-task RL has R1-Code, Countdown, MATH and
FinQA, which gradlens does not read. A prompt is 656 bytes at most, before the
chat template. A verifier scores the whole of what the model says, so that the
system prompt asks for the answer alone.

`model=` is one of `pods.MODELS`; further keys follow. As it is, a 7B model fits
v5p:4x4x4. On v5e:8x8 two chips have to share it while they sample, and groups
are small: `rollout.tensor=2,num_completions=2`. docs/pods.md has what fits
where, compiled and not run: nothing is known yet of what it learns.
"""

import ml_collections

from gradlens.configs import pods


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on arithmetic, logic, counting primes and words."""
  return pods.get_config(dict(
      arithmetic='rg:basic_arithmetic',
      logic='rg:knights_knaves',
      primes='rg:count_primes',
      words='rg:gsm_symbolic',
  ), arg)

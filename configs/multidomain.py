"""Four tasks of different domains, on a slice of 64 TPU chips.

    python -m gradlens.aot --compare --topology=v5p:4x4x4 \
      --config=configs/multidomain.py:model=qwen2_5_7b
    python -m gradlens.main --workdir=gs://BUCKET/RUN \
      --config=configs/multidomain.py:model=qwen2_5_7b
    python -m gradlens.main --workdir=runs/tiny \
      --config=configs/multidomain.py:tiny

Code, Countdown, MATH and FinQA, as in the study of gradient imbalance (Wu et
al., 2025, arXiv 2510.19178); docs/tasks.md says which data these are. They are
downloaded by the first run. Prompts of more than 1024 tokens are dropped, which
the longer reports of FinQA are.

`model=` is one of `pods.MODELS`; further keys follow. As it is, a 7B model fits
v5p:4x4x4. On v5e:8x8 two chips have to share it while they sample, and groups
are small: `rollout.tensor=2,num_completions=2`. docs/pods.md has what fits
where, compiled and not run: nothing is known yet of what it learns.

`tiny` is the whole path in minutes, on a CPU and without a network: records
that are made up, a random model that learns nothing, and the same verifiers, of
which each also pays a little for some letters, so that there are gradients. The
programs that it writes run in the sandbox, which needs bubblewrap.
"""

import ml_collections

from gradlens.configs import pods

_BOX = '{question}\n\nThink step by step, and put the answer in \\boxed{{}}.'


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on code, Countdown, MATH and FinQA."""
  return pods.get_config(dict(
      code=dict(
          source='tfds:r1_code?max_chars=4000', verifier='code',
          template='{question}\n\nThink step by step. End with a Python program'
          ' that reads standard input, in a block fenced by ```.',
      ),
      countdown=dict(
          source='tfds:countdown', verifier='countdown',
          template='{question} Think step by step, and put the expression'
          ' between <answer> and </answer>.',
      ),
      finqa=dict(
          source='tfds:finqa?max_chars=6000', template=_BOX,
          verifier='numeric?tolerance=0.01',
      ),
      math=dict(
          source='tfds:math?heldout=math500:test', template=_BOX,
          verifier='math',
      ),
  ), arg)

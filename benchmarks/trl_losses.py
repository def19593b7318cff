"""TRL's losses and advantages on given log-probabilities and rewards: JSON.

    .venv-bench-trl/bin/python benchmarks/trl_losses.py values.json

Computed by its trainers, built from their configs; what the model would say is
given instead. `make trl-check` runs it, and `tests/trl_values.json` is from it.
"""

from collections.abc import Callable
import json
import pathlib
import sys
import tempfile
from typing import Any

import characters
import datasets
import numpy as np
import torch
import toy_tasks
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

PROMPTS, COMPLETIONS, TOKENS = 3, 4, 6
BETA = 0.1
CLIPS = dict(epsilon=0.2, epsilon_high=0.3)

# What is given to a config, beside `CLIPS`. All have a ratio to old
# log-probabilities, some of which are far off.
LOSSES = dict(
    grpo=dict(loss_type='grpo'),
    bnpo=dict(loss_type='bnpo'),
    dr_grpo=dict(loss_type='dr_grpo'),
    dapo=dict(loss_type='dapo'),
    # Here the bound itself, not its distance from 1.
    cispo=dict(loss_type='cispo', epsilon_high=1.3),
    gspo=dict(loss_type='grpo', importance_sampling_level='sequence'),
    dual_clip=dict(loss_type='grpo', delta=1.6),
    k3=dict(loss_type='grpo', use_bias_correction_kl=False),
    k3_weighted=dict(loss_type='dapo', use_bias_correction_kl=True),
    entropy=dict(loss_type='bnpo', entropy_coef=0.05),
    # As with its other engine: weights of tokens, which it is given here.
    importance=dict(loss_type='dapo'),
)
# What is given to the config of a trainer, of which advantages are asked for.
ADVANTAGES = dict(
    rloo=(RLOOTrainer, RLOOConfig, dict(normalize_advantages=False)),
    dr_grpo=(
        GRPOTrainer, GRPOConfig, dict(loss_type='dr_grpo', scale_rewards='none')
    ),
)


def given() -> dict[str, np.ndarray]:
  """Log-probabilities `[N, C]`, rewards and advantages `[N]`."""
  draw = np.random.default_rng(0)
  n = PROMPTS * COMPLETIONS
  lengths = draw.integers(1, TOKENS + 1, n)
  old = draw.normal(-2, 0.5, (n, TOKENS))
  rewards = draw.integers(0, 5, (PROMPTS, COMPLETIONS)) / 4
  values = dict(
      logprobs=old + draw.normal(0, 0.4, old.shape), old=old,
      reference=old + draw.normal(0, 0.4, old.shape),
      importance=np.minimum(np.exp(draw.normal(0, 0.4, old.shape)), 2.0),
      entropy=draw.uniform(0, 2, old.shape),
      mask=np.arange(TOKENS) < lengths[:, None],
      rewards=rewards.reshape(-1),
      advantages=(rewards - rewards.mean(1, keepdims=True)).reshape(-1),
  )
  return {
      name: a if a.dtype == bool else a.astype(np.float32)
      for name, a in values.items()
  }


def policy() -> Qwen2ForCausalLM:
  """A small model, drawn at random."""
  torch.manual_seed(0)
  return Qwen2ForCausalLM(Qwen2Config(
      vocab_size=toy_tasks.VOCABULARY, hidden_size=8, intermediate_size=8,
      num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
      max_position_embeddings=64, tie_word_embeddings=True,
      pad_token_id=toy_tasks.PAD, eos_token_id=toy_tasks.END,
      bos_token_id=None,
  ))


def trainer(
    make: Any, make_config: Any, folder: str, rewards: Callable[..., list],
    options: dict[str, Any],
) -> Any:
  """Of TRL, of one step."""
  rows = toy_tasks.prompts(PROMPTS)
  return make(
      model=policy(),
      args=make_config(
          output_dir=folder, use_cpu=True, bf16=False, fp16=False,
          per_device_train_batch_size=PROMPTS * COMPLETIONS,
          num_generations=COMPLETIONS, max_completion_length=TOKENS,
          max_steps=1, logging_steps=1000, save_strategy='no', report_to=[],
          disable_tqdm=True, gradient_checkpointing=False,
          **dict(beta=0.0) | CLIPS | options,
      ),
      train_dataset=datasets.Dataset.from_list(
          [dict(prompt=prompt) for _, prompt in rows]
      ),
      processing_class=characters.tokenizer(),
      reward_funcs=rewards,
  )


def loss(
    name: str, values: dict[str, np.ndarray], folder: str
) -> dict[str, Any]:
  """TRL's loss and its gradient in the log-probabilities."""
  a = {key: torch.tensor(value) for key, value in values.items()}
  logprobs = a['logprobs'].clone().requires_grad_()

  class Given(GRPOTrainer):

    def _get_per_token_logps_and_entropies(self, *unused, **unused_too):
      return logprobs, a['entropy'], None

  run = trainer(Given, GRPOConfig, folder, lambda **unused: [], LOSSES[name])
  run.current_gradient_accumulation_steps = 1
  run.model.train()
  inputs = dict(
      prompt_ids=torch.zeros(len(logprobs), 1, dtype=torch.long),
      prompt_mask=torch.ones(len(logprobs), 1, dtype=torch.long),
      completion_ids=torch.zeros(logprobs.shape, dtype=torch.long),
      completion_mask=a['mask'].long(), advantages=a['advantages'],
      old_per_token_logps=a['old'], ref_per_token_logps=a['reference'],
      num_items_in_batch=a['mask'].sum(),
  )
  if name.startswith('k3'):
    run.beta = BETA  # Of a config, it would have a reference model loaded.
  if name == 'importance':
    run.use_vllm = run.vllm_importance_sampling_correction = True
    inputs['importance_sampling_ratio'] = a['importance']
  value = run._compute_loss(run.model, inputs)
  value.backward()
  return dict(loss=value.item(), gradient=logprobs.grad.tolist())


def advantages(
    name: str, values: dict[str, np.ndarray], folder: str
) -> list[float]:
  """TRL's advantages of rewards, prompt by prompt."""
  make, make_config, options = ADVANTAGES[name]
  seen = []

  class Caught(make):

    def _generate_and_score_completions(self, inputs):
      found = super()._generate_and_score_completions(inputs)
      seen.append(found['advantages'].tolist())
      return found

  run = trainer(
      Caught, make_config, folder,
      lambda **unused: values['rewards'].tolist(), options,
  )
  run.train()
  return seen[0]


def main() -> None:
  """Writes what is given and what TRL makes of it."""
  torch.set_num_threads(1)
  values = given()
  with tempfile.TemporaryDirectory() as folder:
    found = dict(
        given={name: a.tolist() for name, a in values.items()},
        losses={name: loss(name, values, folder) for name in LOSSES},
        advantages={
            name: advantages(name, values, folder) for name in ADVANTAGES
        },
    )
  pathlib.Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == '__main__':
  main()

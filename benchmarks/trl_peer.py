"""A GRPO run of TRL, or `generate` alone; prints seconds a step.

Started by `benchmarks.grpo` in an environment with gradlens[bench-trl].
"""

import statistics
import sys
import tempfile
import time

import characters
import datasets
import torch
import toy_tasks
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer


def build(shape: toy_tasks.Shape) -> Qwen2ForCausalLM:
  """The model, drawn at random."""
  torch.manual_seed(0)
  return Qwen2ForCausalLM(Qwen2Config(
      vocab_size=toy_tasks.VOCABULARY, hidden_size=shape.width,
      intermediate_size=4 * shape.width, num_hidden_layers=shape.layers,
      num_attention_heads=4, num_key_value_heads=2,
      max_position_embeddings=64, tie_word_embeddings=True,
      pad_token_id=toy_tasks.PAD, eos_token_id=toy_tasks.END,
      bos_token_id=None,
  ))


def train(shape: toy_tasks.Shape) -> float:
  """Seconds of a step."""
  model = build(shape)
  before = torch.cat([p.detach().flatten() for p in model.parameters()])
  rewards = toy_tasks.Rewards(shape.new)
  rows = toy_tasks.prompts(shape.prompts * shape.steps)
  with tempfile.TemporaryDirectory() as folder:
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, fp16=False,
            per_device_train_batch_size=shape.prompts * shape.completions,
            num_generations=shape.completions,
            max_completion_length=shape.new, max_steps=shape.steps,
            logging_steps=1000, save_strategy='no', report_to=[],
            learning_rate=1e-3, lr_scheduler_type='constant',
            max_grad_norm=0.0, beta=0.0, loss_type='grpo', temperature=1.0,
            disable_tqdm=True, gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_list(
            [dict(task=task, prompt=prompt) for task, prompt in rows]
        ),
        processing_class=characters.tokenizer(),
        reward_funcs=lambda completions, task, **others: rewards(
            task, completions
        ),
    )
    trainer.train()
  after = torch.cat([p.detach().flatten() for p in model.parameters()])
  if torch.equal(before, after):
    raise RuntimeError('nothing was trained')
  return rewards.step_seconds()


def sample(shape: toy_tasks.Shape) -> float:
  """Seconds of sampling what a step samples."""
  model = build(shape).eval()
  prompts = [prompt for _, prompt in toy_tasks.prompts(shape.prompts)]
  inputs = characters.tokenizer()(prompts, return_tensors='pt', padding=True)
  seconds = []
  for _ in range(shape.steps):
    start = time.perf_counter()
    with torch.no_grad():
      model.generate(
          inputs.input_ids, attention_mask=inputs.attention_mask,
          do_sample=True, top_k=0, temperature=1.0,
          num_return_sequences=shape.completions,
          max_new_tokens=shape.new, min_new_tokens=shape.new,
      )
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[3:])


def main() -> None:
  """Trains or samples, and says how long a step takes."""
  torch.set_num_threads(2)
  work = dict(train=train, sample=sample)[sys.argv[2]]
  print(f'seconds {work(toy_tasks.read_shape(sys.argv[1]))}')


if __name__ == '__main__':
  main()

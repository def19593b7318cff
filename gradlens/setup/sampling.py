"""Sampling: who completes prompts, and who scores that, from a config."""

import functools
import multiprocessing
from typing import Any

from gradlens import advantages, experience, hosts, rollout, tasks
from gradlens.experience import Answer, Collect, degenerate, places
from gradlens.setup import meshes
from gradlens.setup.build import Setup


def verifier(
    config: Any, run: Setup, late: tasks.Late | None = None
) -> tasks.Verifier:
  """The processes that score completions; a context manager.

  Args:
    config: of the run.
    run: its setup.
    late: what a run that is resumed has given up; None if it is none.

  Raises:
    ValueError: a task runs programs that a model wrote, and there is no sandbox
      that holds.
  """
  v = config.verifier
  limits = tasks.Limits(
      cpu_seconds=v.cpu_seconds,
      # A program that waits is given up before the worker that waits for it.
      wall_seconds=0.8 * v.wall_seconds,
      memory_bytes=v.memory_mb << 20,
      sandbox=not v.execute_code_without_a_sandbox,
  )
  return tasks.Verifier(
      hosts.agree(lambda: tasks.confine(run.tasks, limits)),
      cpu_seconds=v.cpu_seconds, wall_seconds=v.wall_seconds,
      num_workers=_workers() if v.num_workers == 0 else v.num_workers,
      late=late,
  )


def _workers() -> int:
  """Half of the cores; the others tokenize and compute."""
  return min(max(multiprocessing.cpu_count() // 2, 1), 8)


def sampler(
    config: Any, run: Setup,
    make_sampler: rollout.MakeSampler | None = None, *,
    temperature: float | None = None,
) -> rollout.Sampler:
  """The sampler of the policy, or of another engine.

  At the temperature of training, or another, where 0 is the likeliest token.
  """
  if make_sampler is None:
    mesh = meshes.sampling_mesh(config, run.mesh, run.model.config)
    make_sampler = functools.partial(rollout.make_sampler, mesh=mesh)
  r = config.rollout
  if temperature is None:
    temperature = r.temperature
  greedy = temperature == 0
  return make_sampler(
      run.model, max_new_tokens=r.max_new_tokens,
      temperature=1.0 if greedy else temperature, top_k=1 if greedy else None,
      stop_tokens=run.stop_tokens, num_slots=r.num_slots or None,
  )


def rewards(config: Any, run: Setup) -> tasks.Rewards:
  """Those that a step learns from: of the reference answers, one."""
  if config.objective == 'grpo':
    return tasks.Rewards.of(run.tasks)
  return tasks.Rewards.one(len(run.tasks))


def _sampled(
    config: Any, run: Setup, sample: rollout.Sampler, scorer: tasks.Verifier,
    num_completions: int,
) -> Answer:
  r, weights_KxM = config.rollout, rewards(config, run).weights_KxM
  equal = degenerate.equal_rewards
  if config.advantage.scale == advantages.DECOUPLED:
    equal = degenerate.equal_parts(run.names, weights_KxM)
  return experience.sampled(
      sample, run.encode_prompt, run.tokenizer, scorer,
      num_completions=num_completions, max_prompt_tokens=r.max_prompt_tokens,
      max_new_tokens=r.max_new_tokens, stop_tokens=run.stop_tokens,
      num_rewards=weights_KxM.shape[1], equal=equal,
  )


def answers(
    config: Any, run: Setup, sample: rollout.Sampler, scorer: tasks.Verifier
) -> Answer:
  """Completions to learn from: sampled, or the reference answers."""
  if config.objective == 'grpo':
    return _sampled(config, run, sample, scorer, config.num_completions)
  r = config.rollout
  return experience.references(
      run.encode_prompt, run.tokenizer, max_prompt_tokens=r.max_prompt_tokens,
      max_new_tokens=r.max_new_tokens,
  )


def collector(
    config: Any, run: Setup, sample: rollout.Sampler, scorer: tasks.Verifier
) -> Collect:
  """Experience to learn from, of as many prompts from every task."""
  return places.collect(answers(config, run, sample, scorer), run.names)


def heldout(
    config: Any, run: Setup, sample: rollout.Sampler, scorer: tasks.Verifier,
    make_sampler: rollout.MakeSampler | None = None,
) -> Collect:
  """Completions of held-out prompts, which no step learns from.

  By the sampler of training, or at another temperature by its like.
  """
  e = config.evaluate
  if e.temperature != config.rollout.temperature:
    sample = sampler(config, run, make_sampler, temperature=e.temperature)
  return places.collect(
      _sampled(config, run, sample, scorer, e.num_completions), run.names
  )

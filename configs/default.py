"""Every key there is, with its default; other configs start from here.

Not a run by itself: it names no tasks. See `toy.py`.
"""

import functools
import operator

import ml_collections

_BOOLS = {'True': True, 'False': False}


def get_config() -> ml_collections.ConfigDict:
  """The defaults: a config file fills them in, and adds none."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.num_steps = 100
  # Where parameters come from: '' draws them at random; 'warm' is the small
  # model shipped with gradlens; else a run's workdir or a Hugging Face model
  # directory. A run that has a checkpoint of its own resumes from it instead.
  c.init_from = ''
  # Sizes of a model drawn at random, under their Hugging Face names. Loaded
  # models bring their own.
  c.model = ml_collections.ConfigDict(dict(
      model_type='qwen3', vocab_size=384, hidden_size=128,
      intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
      num_key_value_heads=2, head_dim=32, max_position_embeddings=64,
      rms_norm_eps=1e-6, rope_theta=10_000.0, initializer_range=0.05,
      tie_word_embeddings=True,
  ))
  # How the model is computed. 'bfloat16' is for matrix products; parameters,
  # moments and Gram matrices are float32. 'auto' is the fastest attention that
  # the device has ('splash' on a TPU, 'cudnn' on a GPU in bfloat16); 'plain' is
  # the reference. `remat` is what is kept of a layer for the way back: its
  # input ('full'), products of matrices too ('dots'), or everything ('none').
  c.compute = ml_collections.ConfigDict(dict(
      dtype='float32', attention='auto', remat='full',
  ))
  # Devices: 'task' has rows (tasks x splits), 'fsdp' their prompts, and both
  # have shards of the parameters; 'tensor' has heads, feed-forward and
  # vocabulary. All together are all there are; 1 x 1 x 1 is one device, and
  # fsdp=-1 takes all that the other two leave. See docs/pods.md.
  c.mesh = ml_collections.ConfigDict(dict(task=1, fsdp=1, tensor=1))
  # Low-rank adapters are trained, and nothing else, if their rank is not 0. All
  # gradients and Gram matrices are then those of the adapters.
  c.lora = ml_collections.ConfigDict(dict(
      rank=0, alpha=16.0, targets='q+k+v+o+gate+up+down',
  ))
  # What stands around a task's prompts. `chat` puts them into the chat template
  # of the tokenizer, as words of a user, after those of the system if there are
  # any. Prompts of more than rollout.max_prompt_tokens are refused, or dropped.
  c.prompt = ml_collections.ConfigDict(
      dict(chat=False, system='', drop_long=False)
  )
  # name -> dict(source, pattern, template), with a verifier if it is not to be
  # the source's own; see docs/tasks.md.
  c.tasks = ml_collections.ConfigDict()
  # At most; exact for tasks that are drawn from reasoning-gym, unless prompts
  # are dropped (`drop_long`) or held out by another task.
  c.data = ml_collections.ConfigDict(dict(num_train=1024, num_heldout=256))
  # How many prompts each task has in a step, `prompts_per_task` on average: see
  # docs/mixture.md. Kinds are 'uniform', 'fixed', 'proportional',
  # 'temperature', 'gradient', 'sec', 'dump', 'pac', 'aligned' and 'mt_grpo'.
  c.mixture = ml_collections.ConfigDict(dict(
      kind='uniform',
      kwargs=ml_collections.ConfigDict(),
      max_prompts=0,  # of a task in a step; 0 is prompts_per_task
      # name -> (first step, first step without; -1 is none): tasks that join
      # or leave; steps are counted from 0. Of corrections, 'total', 'mean' and
      # 'constant' go with it.
      active=ml_collections.ConfigDict(),
      # How often prompts whose completions have equal rewards are replaced.
      refill_rounds=0,
  ))

  # 'grpo' learns from rewards of sampled completions; 'supervised' from the
  # reference answers.
  c.objective = 'grpo'
  c.prompts_per_task = 16  # of each task, or on average (`mixture`)
  c.num_splits = 2  # independent parts of each task's prompts, for the norms
  c.num_completions = 8
  c.inner_epochs = 1  # passes over each batch; measured in the first update
  c.num_mini_batches = 1  # parts of each split's prompts, each an update
  c.num_micro_batches = 1  # parts of these, one after the other, for memory
  c.rollout = ml_collections.ConfigDict(dict(
      max_prompt_tokens=32, max_new_tokens=16, temperature=1.0,
      num_slots=0,  # prompts decoded side by side, more wait; 0 is all
      tensor=0,  # devices of a mesh that have a model together; 0: mesh.tensor
      # 0: a step learns from what its own policy samples. 1: from what the
      # policy of the step before has sampled, so that the update and the
      # verifiers work at once (`overlap`) or, to the same end, one after the
      # other. Ratios are then not 1; see "One step behind" in docs/losses.md.
      lag=0, overlap=True,
  ))
  c.verifier = ml_collections.ConfigDict(dict(
      cpu_seconds=1.0, wall_seconds=10.0,  # for each completion
      num_workers=0,  # processes; 0 is half of the cores, and 8 at most
      memory_mb=512,  # of each process of a program that the model wrote
      # Runs such programs as you, with your files and your network.
      execute_code_without_a_sandbox=False,
  ))
  # Rewards less a mean, of the 'group', of its other completions
  # ('leave_one_out'), or over the 'task' or the 'batch'; in standard deviations
  # of the group ('std'), the 'task' or the 'batch', or as they are ('none').
  # Those of task and batch are of each split. 'decoupled' takes several rewards
  # of a task each in its group before they are added. See docs/losses.md.
  c.advantage = ml_collections.ConfigDict(dict(baseline='group', scale='std'))
  c.loss = ml_collections.ConfigDict(dict(
      aggregate='sequence_mean',  # or 'token_mean', 'fixed_length'
      normalize='batch',  # or 'task'
      surrogate='clip',  # or 'gspo', 'gspo_token', 'cispo'
      clip_low=0.2, clip_high=0.2,
      dual_clip=0.0,  # the largest ratio of a bad completion; 0 is without
      # Times the divergence from the policy that the run starts with; 0 is
      # without, and keeps none. By 'k1', 'k2' or 'k3', times the ratio to the
      # policy that sampled if `kl_weighted`.
      kl_coef=0.0, kl_estimator='k3', kl_weighted=False,
      entropy_coef=0.0,  # of a bonus
      importance_cap=0.0,  # largest weight trainer / sampler; 0 is without
      mask_truncated=False,  # leave out completions that had no room to end
  ))
  c.correction = ml_collections.ConfigDict(dict(
      name='total',
      kwargs=ml_collections.ConfigDict(),
      blocks='global',  # or 'layer': weights of their own for every layer
      # How: 'stacked' rows, or through taps 'in_backward' (blocks='layer'),
      # 'two_pass' (blocks='global') or 'lagged'; see docs/compose.md.
      apply='stacked',
      kind='naive',  # the Gram that is seen; or 'unbiased', 'cross'
      match_norm=False,
  ))
  # 'adamw'; 'lion', whose updates are signs; or 'sgd', which has no momentum,
  # and so no b1 and b2. A clip_norm of 0 is without clipping.
  c.optimizer = ml_collections.ConfigDict(dict(
      name='adamw', learning_rate=1e-3, schedule='constant', warmup_steps=5,
      b1=0.9, b2=0.99, weight_decay=0.0, clip_norm=1.0,
  ))

  # Decompose the gradient every so many steps; 0 never does.
  c.instrument_every = 1
  c.evaluate = ml_collections.ConfigDict(dict(
      every=50, num_completions=4, batch_size=64,  # prompts of a task at once
      # That of training, whatever it is set to; 0 takes the likeliest token.
      temperature=c.rollout.get_oneway_ref('temperature'),
  ))
  # The newest `keep` stay, and the `best`: by 'heldout', the mean over tasks of
  # held-out rewards, 'heldout/TASK', or any metric of docs/metrics.md; with a
  # '-' before its name, where it is lowest. '' keeps none.
  c.checkpoint = ml_collections.ConfigDict(dict(every=50, keep=2, best=''))
  c.log_seconds = 10.0  # between progress lines
  c.gain_window = 10  # steps on each side of a learning gain
  # Traces `steps` steps from step `start` on, counted from 0, for TensorBoard's
  # profile plugin; 0 steps never do. The first step compiles: start later.
  c.profile = ml_collections.ConfigDict(dict(start=0, steps=0))
  # A misspelled key is an error; tasks and arguments have names of their own.
  c.lock()
  c.tasks.unlock()
  c.correction.kwargs.unlock()
  c.mixture.kwargs.unlock()
  c.mixture.active.unlock()
  return c


def parse_arg(config: ml_collections.ConfigDict, arg: str | None) -> None:
  """Applies the variants of `--config=file.py:key=value,key=value`.

  Keys are those of the config; `correction` is short for `correction.name`.

  Raises:
    ValueError: a part that is not `key=value`, an unknown key or a value of
      another type, with the part.
  """
  for part in (arg or '').split(','):
    if not part:
      continue
    key, equals, text = part.partition('=')
    if not equals:
      raise ValueError(f'config argument {part!r} is not of the form key=value')
    key = {'correction': 'correction.name'}.get(key, key)
    try:
      old = functools.reduce(operator.getitem, key.split('.'), config)
    except (KeyError, TypeError):
      old = config
    if isinstance(old, ml_collections.ConfigDict):
      raise ValueError(
          f'config argument {part!r}: there is no key {key!r} with a value;'
          ' configs/default.py lists all keys'
      )
    try:
      new = _BOOLS[text] if isinstance(old, bool) else type(old)(text)
    except (KeyError, TypeError, ValueError):
      raise ValueError(
          f'config argument {part!r}: {text!r} is no {type(old).__name__}; the'
          f' default of {key} is {old!r}'
      ) from None
    config.update_from_flattened_dict({key: new})

"""Eighteen small tasks of reasoning-gym, for one model of 1.3M parameters.

    python -m gradlens.main --config=experiments/zoo/config.py:spell+sums ...

An argument after the colon names tasks, all of which are there without it; keys
follow, as in `spell+sums,num_steps=20`. From the root of the repository, where
the model lies that runs start with; `start.py` makes it. `isomorphic` and
`ransom` need PYTHONHASHSEED=0.
"""

import ml_collections

from gradlens.configs import default, toy

# Of runs that start with the model: it has been trained on the prompts of 0.
SEEDS = range(1, 100)
_SMALL = 'min_value=2&max_value=60'

# By their marks and signs no prompt looks like one of another task.
TASKS = dict(
    angles=toy.TASKS['angles'],
    bases=dict(
        source='rg:base_conversion?min_base=2&max_base=7&min_value=8'
        '&max_value=200',
        pattern=r'the (?:base-)?(\w+) number (\w+) to (?:base-)?(\w+)\n',
        template='{0}:{1}:{2}#',
    ),
    bits=dict(
        source='rg:count_bits?max_n=4095',
        pattern=r'number (\d+)\?', template='{0}%',
    ),
    complex=dict(
        source='rg:complex_arithmetic?operations=+,-'
        '&operations_weights=0.5,0.5&min_real=1&min_imag=1',
        pattern=r': \((\d+)\.0 \+ (\d+)\.0i\) ([+-]) '
        r'\((\d+)\.0 \+ (\d+)\.0i\)$',
        template='{0}+{1}i{2}({3}+{4}i):',
    ),
    decimals=dict(
        source='rg:decimal_chain_sum?min_terms=2&max_terms=2&max_digits=1'
        '&max_decimal_places=1',
        pattern=r': (\S+) ([+-]) (\S+) =$', template='{0}{1}{2}~',
    ),
    equations=dict(
        source='rg:simple_equations?max_terms=2&max_value=12&operators=+,-'
        '&operators_weights=0.5,0.5',
        pattern=r': (.+)$', template='{0}?',
    ),
    fractions=dict(
        source='rg:fraction_simplification?styles=plain&max_value=20'
        '&max_factor=25',
        pattern=r'fraction (\d+)/(\d+) ', template='{0}/{1}$',
    ),
    gcd=dict(
        source=f'rg:gcd?{_SMALL}',
        pattern=r': (\d+), (\d+)\.', template='{0},{1}&',
    ),
    isomorphic=dict(
        source='rg:isomorphic_strings?min_string_length=3&max_string_length=5',
        pattern=r'(\w+) (\w+)\n$', template='{0} {1}|',
    ),
    lcm=dict(
        source=f'rg:lcm?{_SMALL}',
        pattern=r': (\d+), (\d+)$', template='{0},{1};',
    ),
    palindrome=toy.TASKS['palindrome'],
    primes=dict(
        source='rg:count_primes?max_n=100',
        pattern=r'between (\d+) and (\d+) ', template='{0}-{1}`',
    ),
    products=dict(
        source='rg:products?max_digits=2',
        pattern=r': (\d+) \* (\d+)\.', template='{0}*{1}=',
    ),
    ransom=dict(
        source='rg:ransom_note?max_note_length=4&min_magazine_length=4'
        '&max_magazine_length=8',
        pattern=r'note: (\w+)\nMagazine: (\w+)', template='{0} {1}\\',
    ),
    spell=dict(
        source='rg:spell_backward?min_word_len=7&max_word_len=10',
        pattern=r': (\w+)$', template='{0}<',
    ),
    sums=toy.TASKS['chain_sum'],
    sums3=dict(
        source='rg:chain_sum?min_terms=3&max_terms=3&max_digits=1',
        pattern=r': (\d+) ([+-]) (\d+) ([+-]) (\d+) =$',
        template='{0}{1}{2}{3}{4}=',
    ),
    terms=dict(
        source='rg:basic_arithmetic?max_terms=3&max_digits=1'
        '&operators=+,-,*&allow_negation=false&allow_parentheses=false',
        pattern=r'Calculate (.+)\.$', template='{0}"',
    ),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """GRPO on the tasks that are named, or on all."""
  first, *rest = (arg or '').split(',')
  if '=' in first or not first:
    rest, first = [first, *rest], '+'.join(TASKS)
  unknown = set(first.split('+')) - set(TASKS)
  if unknown:
    raise ValueError(
        f'experiments/zoo/config.py has no task {sorted(unknown)}; there are'
        f' {", ".join(TASKS)}.'
    )
  c = default.get_config()
  c.init_from = 'experiments/zoo/model'
  c.model.update(dict(
      hidden_size=160, intermediate_size=480, head_dim=40,
      max_position_embeddings=64,
  ))
  c.compute.remat = 'none'  # a small model has the memory
  c.prompts_per_task = 32
  c.num_steps = 60
  c.optimizer.learning_rate = 2e-4
  c.evaluate.every = 20
  c.checkpoint.every = 20
  c.data.num_train, c.data.num_heldout = 1536, 256
  c.rollout.max_prompt_tokens, c.rollout.max_new_tokens = 20, 13
  c.tasks = ml_collections.ConfigDict(
      {name: dict(TASKS[name]) for name in first.split('+')}
  )
  default.parse_arg(c, ','.join(rest))
  c.lock()
  return c

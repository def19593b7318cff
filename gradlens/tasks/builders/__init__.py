"""Builders: public datasets in the form of tensorflow-datasets.

A builder is imported when a task asks for it: tensorflow-datasets is heavy.
"""

import importlib
from typing import Any

# The name in a source string, and the class in the module of that name.
BUILDERS = {
    'arithmetic': 'Arithmetic', 'countdown': 'Countdown',
    'deepscaler': 'DeepScaler', 'finqa': 'FinQa', 'gsm8k': 'Gsm8k',
    'math': 'Math', 'math500': 'Math500', 'r1_code': 'R1Code',
}


def find(name: str) -> Any:
  """The class of a builder; a name of `BUILDERS`."""
  module = importlib.import_module(f'gradlens.tasks.builders.{name}')
  return vars(module)[f'Gradlens{BUILDERS[name]}']

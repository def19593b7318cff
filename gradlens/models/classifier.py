"""Sequence classifiers: a decoder whose head gives a number."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradlens.models import forward, weights
from gradlens.models.families import TOP
from gradlens.models.huggingface import load_model, local

_SCORE = 'score.weight'


def load_classifier(
    path: Any, dtype: Any = jnp.float32
) -> tuple[forward.Model, Any]:
  """Reads a sequence classifier of one label, onto the first device.

  Its head has one output instead of one for each word of a vocabulary, so that
  `prefill` of texts padded on the left gives their numbers, `[N, 1]`.

  Args:
    path: as of `load`, of a model that transformers knows as
      `...ForSequenceClassification`.
    dtype: of the returned parameters.

  Returns:
    `model` and `params`, as `load` does.

  Raises:
    FileNotFoundError: no configuration or weights there.
    ValueError: as of `load`, or the model has another head.
  """
  folder = local(path)
  config = load_model(folder).config
  model = forward.build(dataclasses.replace(config, tie_word_embeddings=False))
  tensors = weights.stored_tensors(folder)
  if _SCORE not in tensors:
    raise ValueError(
        f'{folder} holds no {_SCORE}: its model is no sequence classifier.'
    )
  tensors[TOP['head.kernel']] = tensors.pop(_SCORE)
  wanted = jax.eval_shape(lambda: forward.init(model, jax.random.key(0)))
  head = wanted['head']['kernel']
  wanted['head']['kernel'] = jax.ShapeDtypeStruct(
      (head.shape[0], 1), head.dtype
  )
  return model, weights.read(folder, model, wanted, tensors, dtype, None)

"""Sequence classifiers against transformers' torch models."""

import dataclasses
import tempfile

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import pytest
import random_models
import torch
from transformers import AutoModelForSequenceClassification

from gradlens import models


def classifier(model_type, seed, num_labels=1, **changes):
  """transformers' random model of a family, with nothing at its start."""
  config = random_models.config(model_type, seed)
  config = dataclasses.replace(config, **changes)
  config = models.to_huggingface(config, num_labels=num_labels)
  torch.manual_seed(seed)
  theirs = AutoModelForSequenceClassification.from_config(config).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter += 0.2 * torch.randn(parameter.shape)
  return theirs


class ClassifierTest(parameterized.TestCase):

  @pytest.mark.slow
  @parameterized.parameters(
      *zip(random_models.FAMILIES, (0, 1, 1, 0), strict=True)
  )
  def test_numbers_are_transformers_own(self, model_type, seed):
    theirs = classifier(model_type, seed)
    texts = [[7, 3, 11], [5, 5, 9, 2, 30, 17], [21]]
    with tempfile.TemporaryDirectory() as folder:
      theirs.save_pretrained(folder)
      model, params = models.load_classifier(folder)
    with torch.no_grad():
      expected = [float(theirs(torch.tensor([t])).logits[0, 0]) for t in texts]
    tokens_NxT, mask_NxT = np.zeros((3, 8), int), np.zeros((3, 8), bool)
    for row, mask, text in zip(tokens_NxT, mask_NxT, texts, strict=True):
      row[-len(text):], mask[-len(text):] = text, True
    got, _ = models.prefill(
        model, params, jnp.asarray(tokens_NxT), jnp.asarray(mask_NxT))
    self.assertEqual(got.shape, (3, 1))
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-4, atol=1e-4)
    # They tell the texts apart, by more than that.
    self.assertGreater(np.ptp(expected), 1e-2)

  def test_refuses_other_heads(self):
    config = random_models.config('llama', 0)
    with tempfile.TemporaryDirectory() as folder:
      models.save(*random_models.with_params(config), folder)
      with self.assertRaisesRegex(ValueError, 'no score.weight.*no sequence'):
        models.load_classifier(folder)
      classifier('llama', 0, num_labels=3).save_pretrained(folder)
      with self.assertRaisesRegex(ValueError, r'shape \(3, \d+\), expected'):
        models.load_classifier(folder)


if __name__ == '__main__':
  absltest.main()

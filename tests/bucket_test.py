"""A run's folder in a bucket holds all that a local one does."""

import pathlib
import tempfile
import time
from unittest import mock

from absl.testing import absltest
from clu import metric_writers
from etils import epath
from etils.epath import backend, gpath
import jax
import numpy as np
import pytest
import tiny_config

from gradlens import models, report, train
from gradlens.models import huggingface
from gradlens.report import history
from gradlens.workdir import checkpoint

_BUCKET = 'gs://bucket'


class _Bucket:
  """Stands for what etils asks of a bucket: every method takes its paths."""

  def __init__(self, root):
    self._root = str(root)
    self._real = backend.tf_backend

  def __getattr__(self, name):
    method = getattr(self._real, name)

    def here(path):
      if not isinstance(path, str) or not path.startswith(_BUCKET):
        return path
      return self._root + path.removeprefix(_BUCKET)

    return lambda *args, **kwargs: method(*map(here, args), **kwargs)


@pytest.mark.slow
class BucketTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(
        self.enterContext(tempfile.TemporaryDirectory())
    )
    # Copies are found again by the bucket's name: not those of other runs.
    self.enterContext(mock.patch.object(
        tempfile, 'tempdir', self.enterContext(tempfile.TemporaryDirectory())
    ))
    huggingface._copied.cache_clear()
    bucket = _Bucket(self.root)
    self.enterContext(mock.patch.object(backend, 'tf_backend', bucket))
    self.enterContext(mock.patch.object(gpath, '_GCS_BACKENDS', {bucket}))
    # These two have drivers for buckets of their own.
    local = epath.Path(self.root)
    self.enterContext(mock.patch.object(
        checkpoint, 'absolute',
        lambda path: local / str(path).removeprefix(f'{_BUCKET}/'),
    ))
    create = metric_writers.create_default_writer
    self.enterContext(mock.patch.object(
        metric_writers, 'create_default_writer',
        lambda path: create(str(path).replace(_BUCKET, str(self.root))),
    ))

  def files(self, run):
    return {
        str(path.relative_to(self.root / run))
        for path in (self.root / run).rglob('*')
        if path.is_file() and 'tensorboard' not in path.parts
        and 'checkpoints' not in path.parts
    }

  def test_adapters_in_a_bucket(self):
    arg = 'lora.rank=2,num_steps=2'
    remote = f'{_BUCKET}/remote'
    train.train(tiny_config.get_config(arg), remote)
    train.train(tiny_config.get_config(arg), self.root / 'here')
    report.write(remote)
    report.write(self.root / 'here')
    self.assertEqual(self.files('remote'), self.files('here'))
    self.assertIn('model/model.safetensors', self.files('remote'))
    got, expected = (
        checkpoint.load_model(path) for path in (remote, self.root / 'here')
    )
    jax.tree.map(np.testing.assert_array_equal, got[1], expected[1])
    self.assertEqual(got[2].vocab_size, expected[2].vocab_size)
    # It goes on.
    more = tiny_config.get_config(arg)
    more.evaluate.every = 1
    run = train.train(more, remote)
    self.assertEqual(run.steps.tolist(), [1, 2])
    self.assertEqual(
        history.load(remote).scalars.keys(),
        history.load(self.root / 'here').scalars.keys(),
    )

  def test_a_model_in_a_bucket(self):
    model, params = models.load(models.WARM)
    path = f'{_BUCKET}/model'
    tokenizer = models.load_tokenizer(models.WARM)
    for size in ('1MB', '5GB'):
      models.save(model, params, path, tokenizer, max_shard_size=size)
      weights = [p for p in self.files('model') if p.startswith('model')]
      # Those of the save before are gone.
      self.assertEqual(len(weights) == 1, size == '5GB', weights)
      got, again = models.load(path)
      self.assertEqual(got, model)
      jax.tree.map(np.testing.assert_array_equal, again, params)
      huggingface._copied.cache_clear()  # as another program begins
    other = jax.tree.map(lambda a: a + 1, params)
    time.sleep(1)  # what a bucket's clock can tell
    models.save(model, other, path, tokenizer)
    jax.tree.map(np.testing.assert_array_equal, models.load(path)[1], other)
    self.assertFalse(pathlib.Path('gs:').exists())
    with self.assertRaisesRegex(FileNotFoundError, 'gs://bucket/none is not'):
      models.load(f'{_BUCKET}/none')


if __name__ == '__main__':
  absltest.main()

"""Parameters that taps miss, or meet twice, are named."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import tapped_decoder as decoder
from tapped_decoder import LAYERS, R

import gradlens as gl


class CheckTapsTest(parameterized.TestCase):

  @parameterized.parameters(False, True)
  def test_a_tapped_decoder_passes(self, tied):
    gl.check_taps(
        functools.partial(decoder.losses_fn, tied), decoder.params(tied),
        decoder.probes(), *decoder.batch(),
    )

  def test_weights_and_rules_do_not_matter(self):
    rule = gl.correct(gl.pcgrad(), num_tasks=R).rule
    state = jax.random.split(jax.random.key(0), LAYERS)
    probes = {
        **decoder.probes(weights_R=jnp.zeros(R)),
        'layers': gl.Probe(R, LAYERS, rule=rule, state=state),
    }
    gl.check_taps(
        functools.partial(decoder.losses_fn, False), decoder.params(False),
        probes, *decoder.batch(),
    )

  def test_a_tied_leaf_in_two_taps(self):
    def losses_fn(params, probes, *batch):
      apart = {**params, 'head': {
          **params['head'], 'out': params['embed']['table'].T
      }}
      return decoder.losses_fn(False, apart, probes, *batch)

    with self.assertRaises(ValueError) as caught:
      gl.check_taps(
          losses_fn, decoder.params(True), decoder.probes(), *decoder.batch()
      )
    self.assertEqual(
        str(caught.exception),
        "params['embed']['table'] is used more than once, in probes['embed'], "
        "probes['head']: let one block own it, by gl.tap(fn, owns=...), and "
        'give it to the others as shared=',
    )

  def test_a_leaf_that_all_layers_of_a_scan_share(self):
    block = gl.tap(lambda p, x: jnp.tanh(x @ p['w'] + p['all']))

    def losses_fn(params, probe, x_RxN):
      def step(x_RxN, layer):
        w, probe = layer
        return block({'w': w, 'all': params['all']}, x_RxN, probe), None

      return jax.lax.scan(step, x_RxN, (params['w'], probe))[0].sum(1)

    params = {'w': jnp.ones((3, 2, 2)), 'all': jnp.ones(2)}
    with self.assertRaisesRegex(
        ValueError, r"^params\['all'\] is used more than once, in probes:"
    ):
      gl.check_taps(losses_fn, params, gl.Probe(R, 3), jnp.ones((R, 2)))

  def test_leaves_outside_of_every_tap(self):
    def losses_fn(params, probes, *batch):
      scaled = decoder.losses_fn(False, params, probes, *batch)
      return scaled * params['scale'] + jnp.sum(params['head']['out'] ** 2)

    params = {**decoder.params(False), 'scale': jnp.array(2.0)}
    with self.assertRaisesRegex(
        ValueError,
        r"params\['head'\]\['out'\] is used outside of every tap: move .*; "
        r"params\['scale'\] is used outside",
    ):
      gl.check_taps(losses_fn, params, decoder.probes(), *decoder.batch())


if __name__ == '__main__':
  absltest.main()

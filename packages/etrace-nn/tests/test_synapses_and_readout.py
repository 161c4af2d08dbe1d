"""Leaky integrators: the exponential synapse and the readout."""

import math

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64')

LAYERS = [
    (lambda **options: etrace_nn.Expon(3, **options), u.mA),
    (lambda **options: etrace_nn.LeakyRateReadout(3, 3, w_init=np.eye(3), **options), u.UNITLESS),
]


def with_unit(x, unit):
    return x if unit == u.UNITLESS else x * unit


@pytest.mark.parametrize(('build', 'unit'), LAYERS)
@pytest.mark.parametrize('tau', [5.0, np.array([1.0, 2.0, 3.0])])
@pytest.mark.parametrize('batch', [(), (4,), (2, 4)])
def test_sums_with_exponential_weights(build, unit, tau, batch, random, one_ms):
    layer = build(tau=tau * u.ms)
    layer.init_state(batch or None)
    x = random(6, *batch, 3)
    out = brainstate.transform.for_loop(layer, with_unit(x, unit))
    expected = sum(np.exp(-(5 - t) / tau) * x[t] for t in range(6))
    assert u.get_unit(out) == unit
    np.testing.assert_allclose(u.get_mantissa(out[-1]), expected, rtol=1e-12)
    (state,) = layer.states(brainstate.HiddenState).values()
    assert u.math.allclose(state.value, out[-1])
    layer.reset_state(batch or None)
    assert (u.get_mantissa(state.value) == 0).all()


def test_readout_weights():
    readout = etrace_nn.LeakyRateReadout(4, 2, dt=1 * u.ms)
    readout.init_state(3)
    assert readout.weight.value.shape == (4, 2)
    assert list(readout.states(brainstate.ParamState)) == [('weight',)]
    assert 'etp_matmul' in str(brainstate.transform.make_jaxpr(readout.update)(jnp.ones((3, 4))))


def test_readout_in_units_and_with_an_initial_state():
    readout = etrace_nn.LeakyRateReadout(
        2, 1, tau=2 * u.ms, w_init=1.0 * u.volt, r_init=3.0 * u.mV, dt=1 * u.ms
    )
    readout.init_state()
    r = readout(jnp.ones(2))
    assert r.unit == u.mV
    np.testing.assert_allclose(r.mantissa, [3 * math.exp(-0.5) + 2000])


@pytest.mark.parametrize(('build', 'unit'), LAYERS)
def test_no_time_step(build, unit):
    layer = build()
    layer.init_state()
    with pytest.raises(ValueError, match=r'`dt` is not set: .*environ\.set.*\[ETC606\]'):
        layer(with_unit(jnp.ones(3), unit))
    with (
        brainstate.environ.context(dt=0.1),
        pytest.raises(ValueError, match=r'`dt` and `tau` have different units: .* \[ETC607\]'),
    ):
        layer(with_unit(jnp.ones(3), unit))


@pytest.mark.parametrize(('build', 'unit'), LAYERS)
def test_wrong_inputs(build, unit, one_ms):
    layer = build()
    layer.init_state(2)
    with pytest.raises(ValueError, match=r'has the wrong size: got shape \(2, 4\); .*ETC602'):
        layer(with_unit(jnp.ones((2, 4)), unit))
    with pytest.raises(ValueError, match=r'batch axes of the state: got \(\); .*ETC603'):
        layer(with_unit(jnp.ones(3), unit))
    with pytest.raises(ValueError, match=r'has the wrong unit: got \[mV\]; .*ETC604'):
        layer(jnp.ones((2, 3)) * u.mV)

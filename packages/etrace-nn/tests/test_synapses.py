"""Synapses answer spikes with the curves that are named after them."""

import math

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64', 'one_ms')

TIMES = np.arange(30.0)


def answer(synapse):
    """The answer to a single input of 1 mA."""
    synapse.init_state()
    pulse = np.zeros((30, 1))
    pulse[0] = 1
    out = brainstate.transform.for_loop(synapse, jnp.asarray(pulse) * u.mA)
    return (out / u.mA)[:, 0]


def test_alpha():
    expected = TIMES / 4 * np.exp(-TIMES / 4)
    np.testing.assert_allclose(answer(etrace_nn.Alpha(1, 4.0 * u.ms)), expected, atol=1e-12)


@pytest.mark.parametrize('amplitude', [None, 3.0])
def test_dual_exponential(amplitude):
    found = answer(etrace_nn.DualExpon(1, 8.0 * u.ms, 2.0 * u.ms, amplitude))
    shape = np.exp(-TIMES / 8) - np.exp(-TIMES / 2)
    peak = 8 * 2 / (8 - 2) * math.log(8 / 2)
    scale = amplitude or 1 / (math.exp(-peak / 8) - math.exp(-peak / 2))
    np.testing.assert_allclose(found, scale * shape, atol=1e-12)
    if amplitude is None:
        assert 0.99 < found.max() <= 1


def spike_train(random):
    return (random(40) > 0.5).astype(float)


def test_facilitation_and_depression(random):
    synapse = etrace_nn.STP(1, U=0.2, tau_f=50.0 * u.ms, tau_d=20.0 * u.ms)
    synapse.init_state()
    use, left = 0.0, 1.0
    for spike in spike_train(random):
        use, left = use * math.exp(-1 / 50), 1 - (1 - left) * math.exp(-1 / 20)
        released = 0.0
        if spike:
            use += 0.2 * (1 - use)
            released = use * left
            left -= released
        np.testing.assert_allclose(synapse(jnp.full(1, spike)), released, rtol=1e-12)
        np.testing.assert_allclose([*synapse.u.value, *synapse.x.value], [use, left], rtol=1e-12)


def test_depression(random):
    synapse = etrace_nn.STD(1, tau=20.0 * u.ms, U=0.3)
    synapse.init_state()
    left = 1.0
    for spike in spike_train(random):
        left = 1 - (1 - left) * math.exp(-1 / 20)
        np.testing.assert_allclose(synapse(jnp.full(1, spike)), left * spike, rtol=1e-12)
        left -= 0.3 * left * spike
    assert 0.2 < left < 0.9


@pytest.mark.parametrize('cls', [etrace_nn.STP, etrace_nn.STD])
def test_plasticity_takes_numbers(cls):
    synapse = cls(2)
    synapse.init_state()
    with pytest.raises(ValueError, match=rf'`{cls.__name__} input` has the wrong unit: .*ETC604'):
        synapse(jnp.ones(2) * u.mA)
    with pytest.raises(ValueError, match='has the wrong size'):
        synapse(jnp.ones(3))


@pytest.mark.parametrize('cls', [etrace_nn.Alpha, etrace_nn.DualExpon])
@pytest.mark.parametrize('batch', [(), (4,), (2, 4)])
def test_batches_and_resets(cls, batch, random):
    synapse = cls(3)
    synapse.init_state(batch or None)
    x = random(5, *batch, 3) * u.mA
    out = brainstate.transform.for_loop(synapse, x)
    assert out.shape == (5, *batch, 3)
    synapse.reset_state(batch or None)
    hidden = synapse.states(brainstate.HiddenState).values()
    assert all((state.value / u.mA == 0).all() for state in hidden)
    with pytest.raises(ValueError, match=rf'`{cls.__name__} input` has the wrong unit: .*ETC604'):
        synapse(x[0] / u.mA * u.mV)


def test_coupling():
    g, V = jnp.array([1.0, 2.0]) * u.nS, jnp.array([-50.0, -70.0]) * u.mV
    current = etrace_nn.COBA(E=-80.0 * u.mV)(g, V)
    np.testing.assert_allclose(current / u.pA, [-30.0, -20.0])
    np.testing.assert_allclose(etrace_nn.CUBA(-1.0)(g * 10 * u.mV, V) / u.pA, [-10.0, -20.0])
    with pytest.raises(ValueError, match=r'`COBA E` has the wrong unit: got \[mA\]; .*ETC604'):
        etrace_nn.COBA(E=1.0 * u.mA)(g, V)

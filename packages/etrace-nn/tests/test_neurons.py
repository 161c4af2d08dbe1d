"""Neurons follow their equations, in units, and spike."""

import math

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64')


def transcribe(current, tau=5.0, tau_a=100.0, th=1.0, reset=0.0, rest=0.0, beta=0.0, hard=False):
    """Follow one neuron in plain numbers of mV, ms and mA; yield V, a and the spike."""
    V, a, spike = rest, 0.0, 0.0
    decay, decay_a = math.exp(-1 / tau), math.exp(-1 / tau_a)
    for x in current:
        if hard and spike:
            V = reset
        elif spike:
            V -= th - reset
        a = decay_a * (a + spike)
        V = decay * V + (1 - decay) * (rest + x)
        spike = float(V - beta * a >= th)
        yield V, a, spike


def transcribe_gif(current, hard=False):
    """Follow a generalised neuron; yield all its states and the spike."""
    V, th, first, second, spike = -57.0, -50.0, 0.0, 0.0, 0.0
    decay, slow, e1, e2 = (math.exp(-1 / tau) for tau in (20.0, 100.0, 5.0, 50.0))
    for x in current:
        if spike:
            V = -60.0 if hard else V - 10.0
            th = max(th, -48.0)
            first, second = 0.3 * first + 0.5, second - 0.2
        first, second = e1 * first, e2 * second
        goal = -50.0 + 0.1 * (V + 57.0)
        V = decay * V + (1 - decay) * (-57.0 + 8 * (x + first + second))
        th = slow * th + (1 - slow) * goal
        spike = float(th <= V)
        yield V, th, first, second, spike


@pytest.mark.parametrize('spk_reset', ['soft', 'hard'])
def test_the_generalised_neuron_follows_its_equations(spk_reset, random, one_ms):
    current = 2 + random(60)
    neuron = etrace_nn.GIF(
        1,
        R=8.0 * u.ohm,
        V_rest=-57.0 * u.mV,
        V_reset=-60.0 * u.mV,
        V_th_inf=-50.0 * u.mV,
        V_th_reset=-48.0 * u.mV,
        a=0.1,
        R1=0.3,
        A1=0.5 * u.mA,
        V_init=-57.0 * u.mV,
        spk_reset=spk_reset,
    )
    neuron.init_state()
    spikes = 0
    expected = transcribe_gif(current, spk_reset == 'hard')
    for x, (V, th, first, second, spike) in zip(current, expected, strict=True):
        assert neuron(jnp.full(1, x) * u.mA).item() == spike
        found = neuron.V.value / u.mV, neuron.V_th.value / u.mV, neuron.I1.value / u.mA
        np.testing.assert_allclose(np.ravel(found), [V, th, first], rtol=1e-11)
        np.testing.assert_allclose(neuron.I2.value / u.mA, second, rtol=1e-11)
        spikes += spike
    assert 2 < spikes < len(current) / 2


@pytest.mark.parametrize('spk_reset', ['soft', 'hard'])
def test_without_a_leak_nothing_is_lost(spk_reset, one_ms):
    neuron = etrace_nn.IF(1, tau=4.0 * u.ms, spk_reset=spk_reset)
    neuron.init_state()
    spikes = [neuron(jnp.full(1, 1.5) * u.mA).item() for _ in range(12)]
    left = neuron.V.value.to_decimal(u.mV).item()
    if spk_reset == 'soft':
        # the reset takes 1 mV one step after each spike; each step adds 1.5 / 4 mV
        assert left + sum(spikes[:-1]) == pytest.approx(12 * 1.5 / 4)
    else:
        assert spikes == [0, 0, 1] * 4


@pytest.mark.parametrize('spk_reset', ['soft', 'hard'])
@pytest.mark.parametrize('cls', [etrace_nn.LIF, etrace_nn.ALIF])
def test_follows_its_equations(cls, spk_reset, random, one_ms):
    current = 3 + 2 * random(40)
    voltages = {'th': -50.0, 'reset': -60.0, 'rest': -57.0}
    adaptation = {'beta': 2.0} if cls is etrace_nn.ALIF else {}
    hard = spk_reset == 'hard'
    expected = list(transcribe(8 * current, hard=hard, **voltages, **adaptation))
    neuron = cls(
        1,
        R=8.0 * u.ohm,
        V_init=-57.0 * u.mV,
        spk_reset=spk_reset,
        **{f'V_{key}': value * u.mV for key, value in voltages.items()},
        **{key: value * u.mV for key, value in adaptation.items()},
    )
    neuron.init_state()
    spikes = 0
    for x, (V, a, spike) in zip(current, expected, strict=True):
        assert neuron(jnp.full(1, x) * u.mA).item() == spike
        np.testing.assert_allclose(neuron.V.value.to_decimal(u.mV), V, rtol=1e-12)
        if cls is etrace_nn.ALIF:
            np.testing.assert_allclose(neuron.a.value, a, rtol=1e-12)
        spikes += spike
    assert 2 < spikes < len(current) / 2


def test_adaptation_slows_the_spikes(one_ms):
    current = jnp.full((100, 1), 4.0) * u.mA
    rates = []
    for beta in (0.0, 0.5):
        neuron = etrace_nn.ALIF(1, beta=beta * u.mV)
        neuron.init_state()
        rates.append(brainstate.transform.for_loop(neuron, current).mean().item())
    assert rates[0] > 1.5 * rates[1] > 0


@pytest.mark.parametrize('cls', [etrace_nn.LIF, etrace_nn.ALIF])
def test_the_spike_passes_its_surrogate_derivative(cls, one_ms):
    neuron = cls(1, V_init=0.4 * u.mV, spk_fun=etrace_nn.surrogate.relu_grad)

    def spike(x):
        neuron.init_state()
        return neuron(x * u.mA)[0]

    x, decay = jnp.full(1, 0.5), math.exp(-1 / 5)
    V = 0.4 * decay + 0.5 * (1 - decay)
    np.testing.assert_allclose(jax.grad(spike)(x), (1 - decay) * 0.3 * V, rtol=1e-9)


@pytest.mark.parametrize(('batch', 'size'), [((), 3), ((4,), 3), ((2, 4), (2, 3))])
@pytest.mark.parametrize(
    ('cls', 'states'), [(etrace_nn.LIF, {'V': u.mV}), (etrace_nn.ALIF, {'V': u.mV, 'a': None})]
)
def test_shapes_units_and_reset(cls, states, size, batch, random, one_ms):
    neuron = cls(size)
    neuron.init_state(batch or None)
    hidden = neuron.states(brainstate.HiddenState)
    assert {path[-1] for path in hidden} == set(states)
    shape = (*batch, *neuron.in_size)
    spikes = brainstate.transform.for_loop(neuron, (4 + random(30, *shape)) * u.mA)
    assert spikes.shape == (30, *shape)
    assert spikes.any()
    for (*_, name), state in hidden.items():
        assert state.value.shape == shape
        assert u.get_unit(state.value) == (states[name] or u.UNITLESS)
    neuron.reset_state(batch or None)
    assert all((u.get_mantissa(state.value) == 0).all() for state in hidden.values())


def test_a_state_keeps_its_unit(one_ms):
    neuron = etrace_nn.LIF(1, V_rest=0.001 * u.volt)
    neuron.init_state()
    neuron(jnp.full(1, 0.001) * u.amp)
    assert neuron.V.value.unit == u.mV
    np.testing.assert_allclose(neuron.V.value.mantissa, 2 * (1 - math.exp(-1 / 5)))


def test_a_step_of_its_own_and_time_constants_for_each_neuron(one_ms):
    tau = np.array([1.0, 10.0])
    neuron = etrace_nn.LIF(2, tau=tau * u.ms, dt=0.5 * u.ms)
    neuron.init_state()
    neuron(jnp.full(2, 0.5) * u.mA)
    np.testing.assert_allclose(neuron.V.value / u.mV, 0.5 * (1 - np.exp(-0.5 / tau)))


@pytest.mark.parametrize('cls', [etrace_nn.LIF, etrace_nn.ALIF])
def test_a_trained_time_constant_is_marked(cls, one_ms):
    tau = brainstate.ParamState(jnp.full(3, 5.0) * u.ms)
    neuron = cls(3, tau=tau)
    neuron.init_state(2)
    assert neuron.states(brainstate.ParamState)[('tau',)] is tau
    fixed = cls(3, tau=5.0 * u.ms)
    fixed.init_state(2)
    x = jnp.full((2, 3), 0.5) * u.mA
    assert 'etp_element_wise' in str(brainstate.transform.make_jaxpr(neuron.update)(x))
    assert 'etp_element_wise' not in str(brainstate.transform.make_jaxpr(fixed.update)(x))
    neuron.reset_state(2)
    fixed.reset_state(2)
    neuron(x), fixed(x)
    assert u.math.allclose(neuron.V.value, fixed.V.value)


def test_errors(one_ms):
    with pytest.raises(ValueError, match=r"`spk_reset` is unknown: got 'none'; .* \[ETC609\]"):
        etrace_nn.ALIF(3, spk_reset='none')
    with pytest.raises(ValueError, match=r'`tau` has the wrong shape: got \(2,\); expected \(3,\)'):
        etrace_nn.LIF(3, tau=np.ones(2) * u.ms)
    for cls in (etrace_nn.LIF, etrace_nn.ALIF):
        neuron = cls((2, 3))
        neuron.init_state()
        with pytest.raises(ValueError, match=r'expected \(\.\.\., 2, 3\)\. .* \[ETC602\]'):
            neuron(jnp.ones(3) * u.mA)
        with pytest.raises(ValueError, match=r'batch axes .* got \(4,\); expected \(\)\..*ETC603'):
            neuron(jnp.ones((4, 2, 3)) * u.mA)
        with pytest.raises(
            ValueError, match=rf'`{cls.__name__} input times R` has the wrong unit: .* \[ETC604\]'
        ):
            neuron(jnp.ones((2, 3)))
        assert u.math.allclose(neuron.V.value, jnp.zeros((2, 3)) * u.mV)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: etrace_nn.LIF(1, V_rest=1.0 * u.nA),
            r'`V_rest` has the wrong unit: got \[nA\]; expected \[mV\]\. .*V_th\. \[ETC604\]',
        ),
        (
            lambda: etrace_nn.ALIF(1, beta=0.1),
            r'`beta` has the wrong unit: got \[1\]; expected \[mV\]\. .* \[ETC604\]',
        ),
        (
            lambda: etrace_nn.GIF(1, A2=1.0 * u.mV),
            r'`A2` has the wrong unit: got \[mV\]; expected \[mA\]\. .*A1\. \[ETC604\]',
        ),
    ],
)
def test_units_that_do_not_go_together_are_refused_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_potential_is_no_current(one_ms):
    for cls, subject in ((etrace_nn.IF, 'IF input times R'), (etrace_nn.GIF, 'GIF input')):
        neuron = cls(1)
        neuron.init_state()
        with pytest.raises(ValueError, match=rf'`{subject}` has the wrong unit: .*ETC604'):
            neuron(jnp.ones(1) * u.mV)

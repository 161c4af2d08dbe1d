"""The recurrent spiking layer: synapse, neuron and projections together."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64', 'one_ms')

STATES = {('neuron', 'V'): u.mV, ('neuron', 'a'): u.UNITLESS, ('synapse', 'g'): u.mA}


def spike_trains(*shape):
    return brainstate.random.RandomState(2).bernoulli(0.3, size=shape).astype(float)


def marks(cell, x):
    return str(brainstate.transform.make_jaxpr(cell.update)(x)).count('etp_matmul')


@pytest.mark.parametrize('recurrent', [False, True])
@pytest.mark.parametrize('batch', [(), (4,), (2, 4)])
def test_states_parameters_and_spikes(recurrent, batch):
    cell = etrace_nn.ALIFExponCell(20, 10, recurrent)
    cell.init_state(batch or None)
    hidden = cell.states(brainstate.HiddenState)
    weights = [('W_in', 'weight'), ('W_rec', 'weight')][: 1 + recurrent]
    assert {path: u.get_unit(state.value) for path, state in hidden.items()} == STATES
    assert sorted(cell.states(brainstate.ParamState)) == weights
    spikes = brainstate.transform.for_loop(cell, spike_trains(50, *batch, 20))
    assert spikes.shape == (50, *batch, 10)
    assert set(np.unique(spikes)) == {0.0, 1.0}
    assert {state.value.shape for state in hidden.values()} == {(*batch, 10)}
    cell.reset_state(batch or None)
    assert all((u.get_mantissa(state.value) == 0).all() for state in hidden.values())
    assert marks(cell, jnp.ones((*batch, 20))) == 1 + recurrent


def test_is_its_parts_one_after_the_other():
    cell = etrace_nn.ALIFExponCell(20, 10, tau_g=4 * u.ms, tau=7 * u.ms, beta=0.3 * u.mV)
    cell.init_state()
    synapse, neuron = (
        etrace_nn.Expon(10, 4 * u.ms),
        etrace_nn.ALIF(10, tau=7 * u.ms, beta=0.3 * u.mV),
    )
    synapse.init_state()
    neuron.init_state()
    w_in, w_rec = (W.weight.value['weight'] for W in (cell.W_in, cell.W_rec))

    def step(x):
        return cell(x), neuron(synapse(x @ w_in + neuron.get_spike() @ w_rec))

    whole, parts = brainstate.transform.for_loop(step, spike_trains(40, 20))
    np.testing.assert_array_equal(whole, parts)
    assert whole.sum() > 10


def test_a_gradient_reaches_every_weight():
    cell = etrace_nn.ALIFExponCell(20, 10)
    cell.init_state()
    x = spike_trains(20, 20)

    def loss():
        return brainstate.transform.for_loop(cell, x).sum()

    gradients = brainstate.transform.grad(loss, cell.states(brainstate.ParamState))()
    assert len(gradients) == 2
    assert all(jnp.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(gradients))


def test_initialising_all_states_of_a_network():
    class Net(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = etrace_nn.ALIFExponCell(20, 10)
            self.readout = etrace_nn.LeakyRateReadout(10, 2)

        def update(self, x):
            return self.readout(self.cell(x))

    net = Net()
    brainstate.nn.init_all_states(net, batch_size=3)
    assert len(net.states(brainstate.HiddenState)) == 4
    out = brainstate.transform.for_loop(net, spike_trains(30, 3, 20))
    assert out.shape == (30, 3, 2)
    assert (out[-1] != 0).any()


def test_errors():
    cell = etrace_nn.ALIFExponCell(4, 3)
    cell.init_state(2)
    with pytest.raises(ValueError, match=r'`ALIFExponCell input` has the wrong size: .*ETC602'):
        cell(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r'`ALIFExponCell input` does not fit the batch axes'):
        cell(jnp.ones(4))
    unitless = etrace_nn.ALIFExponCell(4, 3, False, w_init=1.0)
    unitless.init_state()
    with pytest.raises(ValueError, match=r'`Expon input` has the wrong unit: .*weights.*ETC604'):
        unitless(jnp.ones(4))


@pytest.mark.parametrize('coupling', ['conductance', 'current'])
def test_dales_law(coupling):
    cell = etrace_nn.EICell(5, 4, 2, coupling)
    cell.init_state(3)
    for weight in cell.states(brainstate.ParamState).values():
        weight.value = -weight.value  # whatever training does to them
    rest = cell.neuron.V.value

    def effect(neuron):
        """Change of all potentials by the last spike of one neuron."""
        spikes = jnp.zeros((3, 6)).at[:, neuron].set(1.0)
        cell.reset_state(3)
        cell.exc(cell.W_exc(spikes[:, :4]))
        cell.inh(cell.W_inh(spikes[:, 4:]))
        cell(jnp.zeros((3, 5)))
        return (cell.neuron.V.value - rest) / u.mV

    assert all((effect(neuron) > 0).all() for neuron in range(4))
    assert all((effect(neuron) < 0).all() for neuron in range(4, 6))


def test_an_inhibitory_population_spikes_less_with_inhibition():
    x = spike_trains(60, 20)
    rates = []
    for scale in (0.0, 20.0):
        brainstate.random.seed(0)
        cell = etrace_nn.EICell(20, 8, 2, inh_init=scale * u.nS)
        cell.init_state()
        rates.append(brainstate.transform.for_loop(cell, x).mean())
    assert rates[0] > 1.2 * rates[1] > 0


def test_errors_of_a_population():
    with pytest.raises(ValueError, match=r"`coupling` is unknown: got 'gap'; .* \[ETC610\]"):
        etrace_nn.EICell(4, 3, 1, coupling='gap')
    with pytest.raises(ValueError, match=r'`w_init` has the wrong unit: got \[mV\]; .*\[nS\]'):
        etrace_nn.EICell(4, 3, 1, w_init=1.0 * u.mV)
    with pytest.raises(ValueError, match=r'`inh_init` has the wrong unit: got \[nS\]; .*\[pA\]'):
        etrace_nn.EICell(4, 3, 1, 'current', inh_init=1.0 * u.nS)
    with pytest.raises(ValueError, match=r'`rec_init` has the wrong unit: got \[mV\]; .*\[mA\]'):
        etrace_nn.ALIFExponCell(4, 3, rec_init=1.0 * u.mV)

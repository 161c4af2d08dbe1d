"""Diagonal and gated cells follow their equations, written out in numpy."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64')


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def minimal_rnn(p, x, h):
    z = np.tanh(x @ p['Wx.weight']['weight'] + p['Wx.weight']['bias'])
    keep = sigmoid(np.append(h, z) @ p['Wu.weight']['weight'] + p['Wu.weight']['bias'])
    h = keep * h + (1 - keep) * z
    return h, h


def cfn(p, x, h):
    gates = sigmoid(np.append(x, h) @ p['Wg.weight']['weight'] + p['Wg.weight']['bias'])
    h = gates[:4] * np.tanh(h) + gates[4:] * np.tanh(x @ p['Wx.weight']['weight'])
    return h, h


def layer_norm_gru(p, x, h):
    def norm(a, i):
        gain, bias = (p[key].reshape(3, 4)[i] for key in ('gain', 'bias'))
        return gain * (a - a.mean()) / np.sqrt(a.var() + 1e-5) + bias

    gates = np.append(x, h) @ p['Wrz.weight']['weight']
    r, z = sigmoid(norm(gates[:4], 0)), sigmoid(norm(gates[4:], 1))
    new = np.tanh(norm(np.append(x, r * h) @ p['Wh.weight']['weight'], 2))
    h = (1 - z) * h + z * new
    return h, h


def mini_gru(p, x, h):
    z, new = np.split(x @ p['W.weight']['weight'] + p['W.weight']['bias'], 2)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * new
    return h, h


def mini_lstm(p, x, h):
    f, i, new = np.split(x @ p['W.weight']['weight'] + p['W.weight']['bias'], 3)
    keep = sigmoid(f) / (sigmoid(f) + sigmoid(i))
    h = keep * h + (1 - keep) * new
    return h, h


def rtu(p, x, h):
    """One complex number for each pair."""
    eigenvalue = np.exp(-np.exp(p['nu_log']) + 1j * np.exp(p['theta_log']))
    a, b = np.split(x @ p['W.weight']['weight'], 2)
    h = eigenvalue * h + np.sqrt(1 - np.abs(eigenvalue) ** 2) * (a + 1j * b)
    return h, np.tanh(np.append(h.real, h.imag))


def read(p, x, h):
    return h, np.append(h.real, h.imag) @ p['C'] + p['D'] * x


def lru(p, x, h):
    eigenvalue = np.exp(-np.exp(p['nu_log']) + 1j * np.exp(p['theta_log']))
    drive = x @ (p['B']['real'] + 1j * p['B']['imag'])
    return read(p, x, eigenvalue * h + np.exp(p['gamma_log']) * drive)


def s5(p, x, h):
    """The differential equation, in a thousand small steps."""
    rate = -np.exp(p['rate_log']) + 1j * p['frequency']
    drive = x @ (p['B']['real'] + 1j * p['B']['imag'])
    dt = np.exp(p['step_log']) / 1_000
    for _ in range(1_000):
        middle = h + dt / 2 * (rate * h + drive)
        h = h + dt * (rate * middle + drive)
    return read(p, x, h)


def selective(p, x, h):
    u, step = x @ p['Wu'], softplus(x @ p['Wdt'] + p['dt_bias'])
    B, C, rate = x @ p['WB'], x @ p['WC'], np.exp(p['A_log']).reshape(4, 4)
    out = np.zeros(4)
    h = np.zeros((4, 4)) + np.reshape(h, (-1, 4))
    for d in range(4):
        for n in range(4):
            h[d, n] = np.exp(-step[d] * rate[d, n]) * h[d, n] + step[d] * B[n] * u[d]
            out[d] += C[n] * h[d, n]
    return h.ravel(), out + p['D'] * u


CELLS = {
    'MinimalRNNCell': minimal_rnn,
    'CFNCell': cfn,
    'LayerNormGRUCell': layer_norm_gru,
    'MiniGRU': mini_gru,
    'MiniLSTM': mini_lstm,
    'RTUCell': rtu,
    'LRUCell': lru,
    'S5Cell': s5,
    'SelectiveCell': selective,
}


def built(name):
    """Build a cell with parameters that no mistake leaves as they are."""
    brainstate.random.seed(3)
    cell = getattr(etrace_nn, name)(4, 4)
    random = np.random.default_rng(0)
    for state in cell.states(brainstate.ParamState).values():
        state.value = jax.tree.map(lambda x: x + 0.3 * random.normal(size=x.shape), state.value)
    cell.init_state()
    return cell


@pytest.mark.parametrize('name', CELLS)
def test_follows_its_equations(name, random):
    cell = built(name)
    params = {
        '.'.join(path): jax.tree.map(np.asarray, state.value)
        for path, state in cell.states(brainstate.ParamState).items()
    }
    h = np.zeros(cell.h.value.shape, complex if name in ('RTUCell', 'LRUCell', 'S5Cell') else float)
    for x in random(4, 4):
        h, expected = CELLS[name](params, x, h)
        rtol = 1e-6 if name == 'S5Cell' else 1e-11
        np.testing.assert_allclose(cell(jnp.asarray(x)), expected, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize('name', CELLS)
def test_batches_resets_and_refuses(name, random):
    cell = built(name)
    x = random(2, 3, 4)
    cell.init_state((2, 3))
    whole = cell(x)
    assert whole.shape[:2] == (2, 3)
    assert whole.shape[2:] == cell.out_size
    cell.reset_state()
    np.testing.assert_allclose(cell(x[1, 2]), whole[1, 2], rtol=1e-12)
    with pytest.raises(ValueError, match=rf'`{name} input` has the wrong size: .*ETC602'):
        cell(jnp.ones(5))
    with pytest.raises(ValueError, match=r'batch axes of the state: got \(7,\); .*ETC603'):
        cell(jnp.ones((7, 4)))


def test_eigenvalues_lie_in_the_ring():
    for cls in (etrace_nn.LRUCell, etrace_nn.RTUCell):
        cell = cls(2, 200, r_min=0.5, r_max=0.9, max_phase=0.3)
        radius = np.exp(-np.exp(cell.nu_log.value))
        angle = np.exp(cell.theta_log.value)
        assert 0.5 <= radius.min() < 0.6
        assert 0.8 < radius.max() <= 0.9
        assert angle.max() <= 0.3


def test_trace_units_with_the_activation_inside(random):
    cell = etrace_nn.RTUCell(4, 3, nonlinear=True)
    cell.init_state()
    for x in random(3, 4):
        out = cell(x)
    np.testing.assert_array_equal(out, np.append(cell.h.value, cell.k.value))
    assert np.abs(out).max() < 1


def test_the_states_of_a_complex_cell_are_complex_in_both_precisions():
    cell = etrace_nn.LRUCell(2, 3)
    cell.init_state()
    assert cell.h.value.dtype == jnp.complex128
    with brainstate.environ.context(precision=32):
        cell.init_state(4)
    assert cell.h.value.dtype == jnp.complex64

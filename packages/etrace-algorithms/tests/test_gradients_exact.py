"""Where the online gradient must be that of backpropagation through time."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
import etrace_nn
from etrace_algorithms.rules import d_rtrl, pp_prop
from etrace_algorithms.testing import (
    DIAGONAL_MODELS,
    RECURRENT_MODELS,
    DiagonalLSTM,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
    assert_gradients_close,
    bptt_gradients,
    finite_difference,
    gradient_alignment,
    online_gradients,
)
from etrace_compiler import DiagnosticKind, StepEvaluator, element_wise, matmul
from etrace_compiler.program import Const

LEARNERS = {
    'd_rtrl': {},
    'param_dim': {'fast_solve': False},
    'pp_prop': {'decay_or_rank': 0.9},
    'immediate': {},
}
METHODS = ('single-step', 'multi-step')


def loss(y):
    y = u.get_mantissa(y)
    return jnp.sum(y**2) + jnp.sum(jnp.sin(y))


class Net(brainstate.nn.Module):
    """Cells in a row and a readout."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)

    def update(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


CELLS = {
    'vanilla': lambda i, o: etrace_nn.ValinaRNNCell(i, o, activation='tanh'),
    'gru': etrace_nn.GRUCell,
    'lstm': etrace_nn.LSTMCell,
    'alif': lambda i, o: etrace_nn.ALIFExponCell(
        i, o, dt=1.0 * u.ms, spk_fun=etrace_nn.surrogate.arctan_grad
    ),
    'readout': lambda i, o: etrace_nn.LeakyRateReadout(i, o, dt=1.0 * u.ms),
}
TOPS = {
    'none': lambda n: [],
    'plain': lambda n: [brainstate.nn.Linear(n, 2)],
    'marked': lambda n: [etrace_nn.Linear(n, 2)],
}


def alive_input(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 1.5)


def randomise(model, seed=3):
    """Give every parameter entries that are not zero, so that no gradient is trivially right."""
    rng = np.random.default_rng(seed)
    for state in model.states(brainstate.ParamState).values():
        state.value = jax.tree.map(
            lambda x: x + 0.3 * rng.normal(size=jnp.shape(u.get_mantissa(x))) * u.get_unit(x),
            state.value,
            is_leaf=lambda x: isinstance(x, u.Quantity),
        )


def disturb(model, seed=5):
    """Start from states that are not zero, so that every gate has something to act on."""
    rng = np.random.default_rng(seed)
    for state in model.states(brainstate.HiddenState).values():
        value, unit = u.get_mantissa(state.value), u.get_unit(state.value)
        # around the threshold of 1 mV, so that some neurons spike
        state.value = u.maybe_decimal((value + 1.5 * rng.normal(size=value.shape)) * unit)


def compare(model, learner_name, xs, batch, rtol=1e-9, **options):
    brainstate.random.seed(7)
    learner = ea.compile(model, learner_name, xs[0], batch_size=batch, **options)
    randomise(model)
    disturb(model)
    expected = bptt_gradients(model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    assert set(actual) == set(model.states(brainstate.ParamState))
    assert_gradients_close(actual, expected, rtol=rtol)
    return learner, actual, expected


@pytest.mark.parametrize(
    ('depth', 'top', 'method'),
    [(1, 'none', 'multi-step'), (2, 'plain', 'single-step'), (2, 'marked', 'single-step'),
     (2, 'marked', 'multi-step')],
)  # fmt: skip
@pytest.mark.parametrize('cell', CELLS)
def test_one_step_is_exact_for_layers_in_a_row(cell, depth, top, method):
    layers = [CELLS[cell](3 if i == 0 else 4, 4) for i in range(depth)]
    model = Net(*layers, *TOPS[top](4))
    xs = alive_input(1, 5, 3)
    name = 'pp_prop' if top == 'plain' else 'd_rtrl'
    _, actual, _ = compare(model, name, xs, 5, vjp_method=method, **LEARNERS[name])
    # alive: no parameter with an exactly zero gradient, readouts and reset gates included
    for path, value in actual.items():
        for leaf in jax.tree.leaves(value):
            assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize('model', [*DIAGONAL_MODELS, *RECURRENT_MODELS])
def test_one_step_is_exact_by_the_literal_formula(model):
    compare(model(), 'param_dim', alive_input(1, 5, 3), 5, fast_solve=False)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('model', DIAGONAL_MODELS)
def test_position_diagonal_recurrence_is_exact_at_a_length(model, method):
    model = model()
    xs = alive_input(50, 2, 3)
    learner, _, _ = compare(model, 'd_rtrl', xs, 2, vjp_method=method)
    assert not learner.graph.explain(kind=DiagnosticKind.RECURRENCE_CUT)
    assert all(r.exact for r in learner.graph.hidden_param_op_relations)


def test_the_literal_formula_gives_the_same_as_the_fast_one():
    xs = alive_input(9, 2, 3)
    for model in (*DIAGONAL_MODELS, *RECURRENT_MODELS):
        fast = ea.compile(model(), 'd_rtrl', xs[0], batch_size=2)
        slow = ea.compile(model(), 'd_rtrl', xs[0], batch_size=2, fast_solve=False)
        assert_gradients_close(
            online_gradients(fast, xs, loss=loss), online_gradients(slow, xs, loss=loss)
        )


def test_spikes_are_alive():
    model = SpikingChain()
    brainstate.nn.init_all_states(model, 2)
    randomise(model)
    xs = alive_input(50, 2, 3)
    before = model.readout.value
    model.readout.value = jnp.eye(4, 2)
    out = brainstate.transform.for_loop(model.update, xs)
    model.readout.value = before
    rate = float(jnp.mean(out))
    assert 0.01 < rate < 0.9


def test_units_layer_without_recurrence_is_exact_at_every_length():
    model = Net(
        etrace_nn.ALIFExponCell(3, 4, recurrent=False, dt=1.0 * u.ms), etrace_nn.Linear(4, 2)
    )
    xs = 2 * alive_input(30, 2, 3)
    compare(model, 'd_rtrl', xs, 2)


class ComplexDiagonal(brainstate.nn.Module):
    """A complex-diagonal state with real and complex parameters, read out by its real part."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.w = brainstate.ParamState(jnp.asarray(rng.normal(size=(3, 4))))
        self.v = brainstate.ParamState(jnp.asarray(rng.normal(size=(3, 4)) * (1 + 0.5j)))
        self.phase = brainstate.ParamState(jnp.asarray(rng.normal(size=4)))
        self.r = brainstate.ParamState(jnp.asarray(rng.normal(size=(4, 2)) * (1 - 0.3j)))

    def init_state(self, batch_size=None):
        self.z = brainstate.HiddenState(jnp.zeros((batch_size, 4), complex))

    def reset_state(self, batch_size=None):
        self.z.value = jnp.zeros_like(self.z.value)

    def update(self, x):
        decay = 0.9 * jnp.exp(1j * element_wise(self.phase.value))
        drive = (0.5 + 2j) * matmul(x, self.w.value) + matmul(x, self.v.value)
        self.z.value = decay * self.z.value + drive
        return (self.z.value @ self.r.value).real


@pytest.mark.parametrize('method', METHODS)
def test_complex_diagonal_states_are_exact_at_every_length(method):
    xs = alive_input(20, 2, 3)
    learner = ea.compile(ComplexDiagonal(), 'd_rtrl', xs[0], batch_size=2, vjp_method=method)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    assert actual[('w',)].dtype == jnp.float64
    assert actual[('v',)].dtype == jnp.complex128
    assert_gradients_close(actual, expected)


def test_a_complex_state_that_is_taken_apart_is_named():
    class Modulus(ComplexDiagonal):
        def update(self, x):
            self.z.value = (
                0.5 * jnp.abs(self.z.value) + 0.3j * self.z.value + matmul(x, self.v.value)
            )
            return (self.z.value @ self.r.value).real

    xs = alive_input(3, 2, 3)
    learner = ea.compile(Modulus(), 'd_rtrl', xs[0], batch_size=2)
    (found,) = learner.graph.explain(kind=DiagnosticKind.RECURRENCE_CUT)
    assert '`abs` takes the complex state z apart' in found.message
    np.testing.assert_allclose(learner.executor.linearise(xs[0]).D[0], 0.3j, atol=1e-12)


# ---------------------------------------------------------------- recurrent weights


class StoppedRNN(PlainRNN):
    """The same values; the operator's recurrent input is detached."""

    def update(self, x):
        h = self.h.value
        z = jnp.concatenate([x, jax.lax.stop_gradient(h)], axis=-1)
        self.h.value = 0.5 * h + jnp.tanh(z @ self.w.value + self.b.value)
        return self.read(self.h.value)


class StoppedLSTM(RecurrentLSTM):
    """The same values; the operator's recurrent input is detached."""

    def update(self, x):
        z = jnp.concatenate([x, jax.lax.stop_gradient(self.h.value)], axis=-1)
        i, g, f, o = jnp.split(z @ self.w.value + self.b.value, 4, axis=-1)
        self.c.value = jax.nn.sigmoid(f + 1) * self.c.value + jax.nn.sigmoid(i) * jnp.tanh(g)
        self.h.value = jax.nn.sigmoid(o) * jnp.tanh(self.c.value) + 0.2 * self.h.value
        return self.read(self.h.value)


@pytest.mark.parametrize(
    ('marked', 'stopped'), [(PlainRNN, StoppedRNN), (RecurrentLSTM, StoppedLSTM)]
)
def test_recurrent_weights_equal_the_scan_with_stopped_operator_inputs(marked, stopped):
    xs = alive_input(12, 3, 3)
    oracle = stopped()
    brainstate.nn.init_all_states(oracle, 3)
    expected = bptt_gradients(oracle, xs, loss=loss)
    learner = ea.compile(marked(), 'd_rtrl', xs[0], batch_size=3)
    actual = online_gradients(learner, xs, loss=loss)
    assert_gradients_close(actual, expected)
    # control: what is stopped matters, so that the two are not equal by accident
    brainstate.nn.reset_all_states(learner.model)
    full = bptt_gradients(learner.model, xs, loss=loss)
    assert gradient_alignment(actual, full)[0] < 0.9999
    assert learner.graph.explain(kind=DiagnosticKind.RECURRENCE_CUT)


def test_gru_equals_the_stopped_scan_where_its_gates_act_elementwise(monkeypatch):
    xs = alive_input(10, 3, 3)
    model = Net(etrace_nn.GRUCell(3, 4), etrace_nn.Linear(4, 2))
    brainstate.nn.init_all_states(model, 3)
    randomise(model)
    learner = ea.compile(model, 'd_rtrl', xs[0], batch_size=3)
    actual = online_gradients(learner, xs, loss=loss)

    cell = model.layers[0]

    def stopped(x):
        h = cell.h.value
        still = jax.lax.stop_gradient(h)
        rz = jax.nn.sigmoid(cell.Wrz(jnp.concatenate([x, still], -1)))
        r, z = jnp.split(rz, 2, axis=-1)
        new = jnp.tanh(cell.Wh(jnp.concatenate([x, r * still], -1)))
        cell.h.value = (1 - z) * h + z * new
        return cell.h.value

    brainstate.nn.reset_all_states(model, 3)
    plain = brainstate.transform.for_loop(model, xs)
    brainstate.nn.reset_all_states(model, 3)
    monkeypatch.setattr(cell, 'update', stopped)
    np.testing.assert_allclose(brainstate.transform.for_loop(model, xs), plain, rtol=1e-12)
    brainstate.nn.reset_all_states(model, 3)
    expected = bptt_gradients(model, xs, loss=loss)
    path = ('layers', 0, 'Wh', 'weight')
    assert_gradients_close({path: actual[path]}, {path: expected[path]})
    path = ('layers', 0, 'Wrz', 'weight')
    for leaf in ('weight', 'bias'):
        reset, update = (slice(0, 4), slice(4, 8))
        got, want = actual[path][leaf], expected[path][leaf]
        np.testing.assert_allclose(got[..., update], want[..., update], rtol=1e-9, atol=1e-12)
        # the reset gate acts through a matmul: its history is dropped, and a record says so
        assert np.abs(got[..., reset] - want[..., reset]).max() > 1e-6
    assert learner.graph.explain(weight_path=path, kind=DiagnosticKind.RELATION_PARTIAL_PATH)


# ---------------------------------------------------------------- the oracles among themselves


def test_bptt_oracle_agrees_with_finite_differences():
    model = PlainRNN()
    brainstate.nn.init_all_states(model, 2)
    xs = alive_input(4, 2, 3)
    expected = bptt_gradients(model, xs, loss=loss)

    def total(w):
        brainstate.nn.reset_all_states(model)
        kept = model.w.value
        model.w.value = jnp.asarray(w)
        out = sum(loss(model.update(x)) for x in xs)
        model.w.value = kept
        return out

    numeric = finite_difference(total, model.w.value)
    np.testing.assert_allclose(expected[('w',)], numeric, rtol=1e-5, atol=1e-7)


def test_linear_rnn_equals_its_closed_form():
    model = LeakyIntegrator()
    xs = alive_input(20, 1, 3)
    learner = ea.compile(model, 'd_rtrl', xs[0], batch_size=1)
    actual = online_gradients(learner, xs, loss=jnp.sum)
    # h_t = sum_s 0.9^(t-s) (x_s W + b); the loss is the sum of h_t R over t
    powers = np.array([[0.9 ** (t - s) if s <= t else 0.0 for s in range(20)] for t in range(20)])
    reach = powers.sum(0)
    readout = np.asarray(model.readout.value).sum(1)
    want = np.outer(np.asarray(xs)[:, 0].T @ reach, readout)
    np.testing.assert_allclose(actual[('w',)], want, rtol=1e-10)
    np.testing.assert_allclose(actual[('b',)], reach.sum() * readout, rtol=1e-10)


# ---------------------------------------------------------------- negative controls


def run_single(model, xs, batch=2):
    learner = ea.compile(model, 'd_rtrl', xs[0], batch_size=batch)
    randomise(model)
    expected = bptt_gradients(model, xs, loss=loss)
    return online_gradients(learner, xs, loss=loss), expected


def test_control_without_the_bypass_the_spiking_chain_is_wrong(monkeypatch):
    monkeypatch.setattr(StepEvaluator, '_find_bypassed', lambda self: frozenset())
    actual, expected = run_single(SpikingChain(), alive_input(6, 2, 3))
    with pytest.raises(AssertionError):
        assert_gradients_close(actual, expected)


@pytest.mark.parametrize('rule', [d_rtrl, pp_prop])
def test_control_without_what_goes_around_the_states_a_reset_gate_is_wrong(rule, monkeypatch):
    def nothing(graph):
        return {r.key: () for r in graph.hidden_param_op_relations}

    name = rule.__name__.rpartition('.')[2]
    monkeypatch.setattr(rule, 'columns_beside', nothing)
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        compare(etrace_nn.GRUCell(3, 4), name, alive_input(1, 5, 3), 5, **LEARNERS[name])


def test_control_without_traces_the_integrator_is_wrong():
    model = LeakyIntegrator()
    xs = alive_input(6, 2, 3)
    learner = ea.compile(model, 'immediate', xs[0], batch_size=2)
    expected = bptt_gradients(model, xs, loss=loss)
    with pytest.raises(AssertionError):
        assert_gradients_close(online_gradients(learner, xs, loss=loss), expected)


def test_control_counting_a_state_inside_its_own_group_doubles_the_gradient(monkeypatch):
    """A perturbation that the own transition sees counts c -> h twice at T=1."""

    def naive(self, v, version):
        group = self._new[v][0] if v in self._new else None
        return original(self, v, version)[0], group

    original = StepEvaluator._source
    xs = alive_input(5, 2, 3)

    def one_signal():
        return run_single(DiagonalLSTM(), xs)

    assert_gradients_close(*one_signal())
    monkeypatch.setattr(StepEvaluator, '_source', naive)
    with pytest.raises(AssertionError):
        assert_gradients_close(*one_signal())


def test_no_gradient_is_zero_without_a_record():
    class Unused(LeakyIntegrator):
        def __init__(self):
            super().__init__()
            self.spare = self.weight(3)

    model = Unused()
    xs = alive_input(3, 2, 3)
    learner = ea.compile(model, 'd_rtrl', xs[0], batch_size=2)
    gradients = online_gradients(learner, xs, loss=loss)
    for path, value in gradients.items():
        errors = [r for r in learner.graph.explain(weight_path=path) if r.level == 'error']
        is_zero = all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(value))
        assert bool(errors) == is_zero, path
    assert not isinstance(learner.graph.module_info.program.outputs[0], Const)

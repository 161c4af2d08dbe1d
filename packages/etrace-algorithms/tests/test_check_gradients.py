"""`check_gradients`: what it measures, what it holds a learner to, and what it leaves alone."""

import contextlib
import io
import math
import re
from dataclasses import dataclass

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
import etrace_nn
from etrace_algorithms import Exactness, NotSupportedError, check_gradients
from etrace_algorithms.rules import DiagonalRTRL
from etrace_algorithms.testing import (
    DIAGONAL_MODELS,
    RECURRENT_MODELS,
    LeakyIntegrator,
    PlainRNN,
    SpikingChain,
    bptt_gradients,
    online_gradients,
)
from etrace_compiler import Verdict, element_wise, matmul


def inputs(*shape, seed=1, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 1.5, dtype)


class Net(brainstate.nn.Module):
    """Layers in a row."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)

    def update(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def stack():
    """Two layers with a state each; the first is exact within the layer."""
    readout = etrace_nn.LeakyRateReadout
    return Net(readout(3, 4, dt=1.0 * u.ms), readout(4, 2, dt=1.0 * u.ms))


def compiled(model, name='d_rtrl', xs=None, batch=2, **options):
    xs = inputs(1, batch, 3) if xs is None else xs
    return ea.compile(model, name, jax.tree.map(lambda x: x[0], xs), batch_size=batch, **options)


def kept(report):
    return {'.'.join(map(str, row.weight_path)): row.kept for row in report.weights}


@dataclass(frozen=True)
class Flipped(DiagonalRTRL):
    """The history with the wrong sign."""

    def history(self, *args):
        return jax.tree.map(jnp.negative, super().history(*args))


@dataclass(frozen=True)
class Louder(DiagonalRTRL):
    """The history, a little too large."""

    def history(self, *args):
        return jax.tree.map(lambda g: 1.001 * g, super().history(*args))


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize('model', [*DIAGONAL_MODELS, *RECURRENT_MODELS])
def test_the_figures_are_those_of_the_oracles(model):
    xs = inputs(6, 2, 3)
    learner = compiled(model(), xs=xs)

    def loss(y):
        return jnp.sum(jnp.sin(y))

    report = check_gradients(learner, xs, loss=loss)
    assert report.ok
    assert report.promise is Exactness.EXACT_DIAGONAL
    assert (report.learner, report.steps, report.window) == ('D_RTRL', 6, 1)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    actual = online_gradients(learner, xs, loss=loss)
    assert [row.weight_path for row in report.weights] == list(actual)
    for row in report.weights:
        a, b = (np.ravel(g[row.weight_path]) for g in (actual, expected))
        norms = np.linalg.norm(a), np.linalg.norm(b)
        assert row.online_norm == pytest.approx(norms[0], rel=1e-10)
        assert row.bptt_norm == pytest.approx(norms[1], rel=1e-10)
        assert row.cosine == pytest.approx(np.dot(a, b) / np.prod(norms), rel=1e-10)
        error = np.linalg.norm(a - b) / norms[1]
        assert row.relative_error == pytest.approx(error, rel=1e-6, abs=1e-12)
        verdict = learner.graph.exactness['.'.join(row.weight_path)].verdict
        assert row.verdict is verdict
        assert row.kept is (True if verdict is Verdict.EXACT else None)
        assert row.promised_error == (row.relative_error if row.kept else None)
        # not vacuous: what is not promised is not there either
        assert (row.relative_error < 1e-9) is (verdict is Verdict.EXACT)


def test_a_gradient_within_the_layer_is_held_against_bptt_within_the_layer():
    xs = inputs(6, 2, 3)
    report = check_gradients(compiled(stack(), xs=xs), xs)
    first, second = report.weights
    assert (first.verdict, second.verdict) == (Verdict.WITHIN_LAYER, Verdict.EXACT)
    assert first.kept is second.kept is True
    assert first.relative_error > 0.01  # of BPTT over all layers
    assert first.promised_error < 1e-10
    assert second.relative_error < 1e-10


def test_every_output_matters_to_the_loss_of_its_own():
    class Outputs(LeakyIntegrator):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.turn = (self.weight(4, 2) for _ in range(3))

        def update(self, x):
            super().update(x)
            h = self.h.value
            return {
                'left': h @ self.left.value * u.mV,
                'rest': [h @ self.right.value, jnp.argmax(h), 1j * (h @ self.turn.value)],
            }

    xs = inputs(4, 2, 3)
    report = check_gradients(compiled(Outputs(), xs=xs), xs)
    assert report.ok
    norms = {row.weight_path[0]: row.bptt_norm for row in report.weights}
    assert all(norms[key] > 0 for key in ('left', 'right', 'turn', 'w'))
    assert norms['readout'] == 0
    assert report == check_gradients(compiled(Outputs(), xs=xs), xs)  # the seed is fixed


def test_a_loss_may_read_hidden_states():
    xs = inputs(5, 2, 3)
    learner = compiled(SpikingChain(), xs=xs)
    plain = check_gradients(learner, xs)
    regularised = check_gradients(
        learner, xs, loss=lambda y: jnp.sum(y) + jnp.sum(learner.model.v.value**2)
    )
    assert plain.ok
    assert regularised.ok
    assert plain.weights != regularised.weights


def test_a_loss_with_a_unit_and_several_elements():
    xs = inputs(4, 2, 3)
    learner = compiled(LeakyIntegrator(), xs=xs)
    assert (
        check_gradients(learner, xs, loss=lambda y: y * u.mV).weights
        == check_gradients(learner, xs, loss=jnp.sum).weights
    )


# ---------------------------------------------------------------- negative controls


@pytest.mark.parametrize('wrong', [Flipped(), Louder()])
@pytest.mark.parametrize('model', [*DIAGONAL_MODELS, stack])
def test_a_wrong_rule_is_caught(model, wrong):
    xs = inputs(6, 2, 3)
    report = check_gradients(compiled(model(), wrong, xs=xs), xs)
    assert not report.ok
    broken = [row for row in report.weights if row.kept is False]
    traced = compiled(model(), xs=xs).graph.hidden_param_op_relations
    assert {row.weight_path for row in broken} == {p for r in traced for p in r.trainable_paths}
    assert re.search(r'NO$', str(report), re.MULTILINE)


def test_one_step_does_not_show_what_is_wrong_with_a_history():
    xs = inputs(1, 2, 3)
    assert check_gradients(compiled(LeakyIntegrator(), Flipped(), xs=xs), xs).ok


def test_a_contract_that_promises_too_much_is_caught(monkeypatch):
    """What the compiler says is not taken from what is measured."""
    xs = inputs(5, 2, 3)
    learner = compiled(PlainRNN(), xs=xs)
    exact = {
        key: type(weight)(weight.weight_path, Verdict.EXACT)
        for key, weight in learner.graph.exactness.items()
    }
    object.__setattr__(learner.graph, 'exactness', exact)
    assert kept(check_gradients(learner, xs)) == {'w': False, 'b': False, 'readout': True}


def test_the_bias_of_the_first_step_is_caught():
    """The one learner of ours that is not exact at one step."""
    xs = inputs(1, 2, 3)
    options = {'decay_or_rank': 0.9}
    assert check_gradients(compiled(PlainRNN(), 'pp_prop', xs, **options), xs).ok
    biased = check_gradients(compiled(PlainRNN(), 'pp_prop', xs, debias=False, **options), xs)
    assert kept(biased) == {'w': False, 'b': False, 'readout': True}


# ---------------------------------------------------------------- what a learner is held to


@pytest.mark.parametrize(
    ('name', 'options'),
    [('pp_prop', {'decay_or_rank': 0.9}), ('immediate', {})],
)
def test_a_rule_without_a_promise_is_shown_without_judgement(name, options):
    xs = inputs(6, 2, 3)
    report = check_gradients(compiled(LeakyIntegrator(), name, xs, **options), xs)
    assert report.ok
    assert set(kept(report).values()) == {None}
    assert all(row.promised_error is None for row in report.weights)
    assert max(row.relative_error for row in report.weights) > 0.01
    assert 'There is nothing to be kept' in str(report)


@pytest.mark.parametrize('model', [*RECURRENT_MODELS, stack])
@pytest.mark.parametrize('name', ['d_rtrl', 'immediate'])
def test_at_one_step_every_rule_is_held_to_every_weight(name, model):
    xs = inputs(1, 2, 3)
    report = check_gradients(compiled(model(), name, xs), xs)
    assert set(kept(report).values()) == {True}
    assert 'There is no history' in str(report)


def test_a_learner_of_windows():
    xs = inputs(7, 2, 3)
    learner = compiled(PlainRNN(), xs=xs, vjp_method='multi-step')
    errors = []
    for size in (None, 3, 7):
        report = check_gradients(learner, xs, chunk_size=size)
        assert report.ok
        assert report.window == (size or 1)
        errors.append(report.weights[-1].relative_error)
    assert errors[0] > errors[1] > errors[2]
    assert set(kept(report).values()) == {True}
    exact = compiled(SpikingChain(), xs=xs, vjp_method='multi-step')
    assert set(kept(check_gradients(exact, xs, chunk_size=3)).values()) == {True}
    flipped = ea.RuleLearner(LeakyIntegrator(), LouderCredit(), vjp_method='multi-step')
    brainstate.nn.init_all_states(flipped.model, 2)
    flipped.compile_graph(xs[0])
    assert not check_gradients(flipped, xs, chunk_size=3).ok


@dataclass(frozen=True)
class LouderCredit(DiagonalRTRL):
    def credit(self, trace, signal):
        return jax.tree.map(lambda g: 1.001 * g, super().credit(trace, signal))


class ByHooks(ea.ETraceVjpAlgorithm):
    """A learner that overrides the hooks and has no rule: it gives no credit to the past."""

    def init_etrace_state(self, *args, **kwargs):
        self._assign_etrace_data(jnp.zeros(()))

    def _update_etrace_data(self, data, lin):
        return data + 1

    def _solve_weight_gradients(self, before, after, lin, signal, bypass):
        relations = self.graph.hidden_param_op_relations
        return {r.key: jnp.zeros(r.block_shape[1:], r.dtype) for r in relations}


def test_a_learner_without_a_rule_promises_nothing():
    xs = inputs(4, 2, 3)
    learner = compiled(LeakyIntegrator(), ByHooks, xs)
    report = check_gradients(learner, xs)
    assert (report.learner, report.promise, report.ok) == ('ByHooks', None, True)
    assert 'The rule promises: nothing' in str(report)
    assert set(kept(check_gradients(learner, xs[:1])).values()) == {True}


def test_layers_are_joined_inside_a_window():
    xs = inputs(6, 2, 3)
    report = check_gradients(compiled(stack(), xs=xs, vjp_method='multi-step'), xs, chunk_size=2)
    assert list(kept(report).values()) == [None, True]


# ---------------------------------------------------------------- kinds of models


class ComplexModel(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.v = brainstate.ParamState(inputs(3, 4, seed=2) * (1 + 0.5j))
        self.phase = brainstate.ParamState(inputs(4, seed=3))

    def init_state(self, batch_size=None):
        self.z = brainstate.HiddenState(jnp.zeros((batch_size, 4), complex))

    def update(self, x):
        turn = 0.9 * jnp.exp(1j * element_wise(self.phase.value))
        self.z.value = turn * self.z.value + matmul(x, self.v.value)
        return self.z.value


class PytreeModel(LeakyIntegrator):
    def __init__(self):
        super().__init__()
        self.p = brainstate.ParamState({'w': self.w.value, 'b': [self.b.value]})
        del self.w, self.b

    def update(self, x):
        p = self.p.value
        self.h.value = 0.9 * self.h.value + matmul(x['in'], p['w'], p['b'][0])
        return self.read(self.h.value)


def test_complex_parameters_and_outputs():
    xs = inputs(5, 2, 3)
    report = check_gradients(compiled(ComplexModel(), xs=xs), xs)
    assert kept(report) == {'v': True, 'phase': True}
    assert all(row.bptt_norm > 0 for row in report.weights)
    assert not check_gradients(compiled(ComplexModel(), Flipped(), xs=xs), xs).ok


def test_parameters_and_inputs_that_are_pytrees():
    xs = {'in': inputs(5, 2, 3)}
    report = check_gradients(compiled(PytreeModel(), xs=xs), xs)
    assert kept(report) == {'p': True, 'readout': True}
    assert not check_gradients(compiled(PytreeModel(), Flipped(), xs=xs), xs).ok


def test_several_sequences_and_multi_step_data():
    class TwoInputs(LeakyIntegrator):
        def update(self, x, gain):
            return super().update(x) * gain

    xs, gains = inputs(5, 2, 3), inputs(5)
    learner = ea.compile(TwoInputs(), 'd_rtrl', xs[0], gains[0], batch_size=2)
    report = check_gradients(learner, xs, gains)
    assert report.ok
    assert check_gradients(learner, ea.MultiStepData(xs), gains) == report


def test_parameters_states_and_outputs_with_units():
    cell = etrace_nn.ALIFExponCell(3, 4, recurrent=False, dt=1.0 * u.ms)
    xs = 2 * inputs(12, 2, 3)
    report = check_gradients(compiled(cell, xs=xs), xs)
    assert report.ok
    assert any(row.verdict is Verdict.EXACT and row.bptt_norm > 0 for row in report.weights)


class Noisy(LeakyIntegrator):
    """Dropout on the input: a random key in the step."""

    def __init__(self):
        super().__init__()
        self.dropout = brainstate.nn.Dropout(0.5)

    def update(self, x):
        with brainstate.environ.context(fit=True):
            return super().update(self.dropout(x))


@pytest.mark.parametrize('vmap', [False, True])
def test_both_runs_see_the_same_random_keys(vmap):
    xs = inputs(6, 2, 3)
    learner = compiled(Noisy(), xs=xs, vmap=vmap)
    with brainstate.random.seed_context(3):
        report = check_gradients(learner, xs)
        assert report.ok
        assert all(row.relative_error < 1e-10 for row in report.weights)
        assert check_gradients(learner, xs) == report  # the key is where it was
        brainstate.random.rand()
        assert check_gradients(learner, xs) != report  # and it does matter


@pytest.mark.parametrize('model', [SpikingChain, PlainRNN, stack])
def test_a_learner_that_runs_by_vmap(model):
    xs = inputs(6, 2, 3)
    learner, batched = compiled(model(), xs=xs, vmap=True), compiled(model(), xs=xs)
    for key, state in batched.param_states.items():
        learner.param_states[key].value = state.value
    report, same = check_gradients(learner, xs), check_gradients(batched, xs)
    assert report.ok
    for row, other in zip(report.weights, same.weights, strict=True):
        assert row.bptt_norm == pytest.approx(other.bptt_norm, rel=1e-10)
        assert row.online_norm == pytest.approx(other.online_norm, rel=1e-10)
    assert not check_gradients(compiled(model(), Flipped(), xs=xs, vmap=True), xs).ok or (
        model is PlainRNN
    )


@contextlib.contextmanager
def single_precision():
    jax.config.update('jax_enable_x64', False)
    with brainstate.environ.context(precision=32):
        yield


@pytest.mark.parametrize('dtype', [None, jnp.bfloat16])
def test_tolerances_are_those_of_what_is_held(dtype):
    with single_precision():
        xs = inputs(30, 2, 3, dtype=jnp.float32)
        report = check_gradients(compiled(LeakyIntegrator(), xs=xs, trace_dtype=dtype), xs)
        assert report.ok
        assert report.tolerance == math.sqrt(jnp.finfo(dtype or jnp.float32).eps)
        rough = check_gradients(
            compiled(LeakyIntegrator(), xs=xs, trace_dtype=jnp.bfloat16),
            xs,
            tolerance=1e-5,
            chunk_size=1,  # within a window nothing is rounded to the trace
        )
        assert rough.ok is False
        flipped = compiled(LeakyIntegrator(), Flipped(trace_dtype=dtype), xs=xs)
        assert not check_gradients(flipped, xs).ok


# ---------------------------------------------------------------- what is left alone


def everything_of(learner):
    states = {**learner.states(), **learner.executor.states}
    return {str(k): jax.tree.map(np.asarray, jax.random.key_data(s.value)
                                 if jnp.issubdtype(getattr(s.value, 'dtype', int),
                                                   jax.dtypes.prng_key) else s.value)
            for k, s in states.items()}  # fmt: skip


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key in before:
        jax.tree.map(np.testing.assert_array_equal, before[key], after[key])


@pytest.mark.parametrize('vmap', [False, True])
def test_states_traces_and_keys_are_left_as_they_were(vmap):
    xs = inputs(4, 2, 3)
    learner = compiled(Noisy(), xs=xs, vmap=vmap)
    fresh = check_gradients(learner, xs)
    learner.etrace_evolve(xs)
    before = everything_of(learner)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(learner.etrace.value))
    report = check_gradients(learner, xs)
    assert report.ok  # from a state that is not zero, with an empty trace
    assert report.weights != fresh.weights
    assert_same(before, everything_of(learner))
    with pytest.raises(ZeroDivisionError):
        check_gradients(learner, xs, loss=lambda y: 1 / 0)
    assert_same(before, everything_of(learner))
    assert learner.running_index.value == 4


def test_nothing_is_printed_unless_asked(capsys):
    xs = inputs(2, 2, 3)
    learner = compiled(LeakyIntegrator(), xs=xs)
    report = check_gradients(learner, xs)
    assert capsys.readouterr() == ('', '')
    file = io.StringIO()
    assert check_gradients(learner, xs, file=file) == report
    assert file.getvalue() == f'{report}\n'
    assert capsys.readouterr() == ('', '')


def test_the_table(monkeypatch):
    xs = inputs(6, 2, 3)
    learner = compiled(stack(), xs=xs)
    report = check_gradients(learner, xs)
    title, head, first, second, *note = str(report).splitlines()
    assert title == 'D_RTRL beside BPTT, 6 steps'
    columns = ['weight', 'verdict', '|online|', '|BPTT|', 'cosine', 'rel. error', 'kept']
    assert re.split(r'  +', head) == columns
    assert len(head) == len(first) == len(second)
    row = report.weights[0]
    assert re.split(r'  +', first) == [
        'layers.0.weight', 'exact within the layer', f'{row.online_norm:.3e}',
        f'{row.bptt_norm:.3e}', f'{row.cosine:.6f}', f'{row.relative_error:.1e}', 'yes',
    ]  # fmt: skip
    assert 'states of all other layers detached' in ' '.join(note)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('NO_COLOR', raising=False)
    shown = Terminal()
    check_gradients(learner, xs, file=shown)
    assert '\x1b[36mexact within the layer\x1b[0m' in shown.getvalue()
    assert re.sub(r'\x1b\[\d+m', '', shown.getvalue()) == f'{report}\n'
    monkeypatch.setenv('NO_COLOR', '1')
    shown = Terminal()
    check_gradients(learner, xs, file=shown)
    assert shown.getvalue() == f'{report}\n'


# ---------------------------------------------------------------- what is refused


def test_a_model_is_not_a_learner():
    message = r'`learner` has no gradient to check: got LeakyIntegrator; .* \[ETA121\]'
    with pytest.raises(TypeError, match=message):
        check_gradients(LeakyIntegrator(), inputs(1, 2, 3))


def test_a_learner_that_is_not_compiled():
    with pytest.raises(ValueError, match='ETC111'):
        check_gradients(ea.D_RTRL(LeakyIntegrator()), inputs(1, 2, 3))


def test_sequences_of_different_lengths():
    learner = compiled(LeakyIntegrator())
    for sequences in ((inputs(4, 2, 3), inputs(5, 2, 3)), ()):
        with pytest.raises(ValueError, match='ETA106'):
            check_gradients(learner, *sequences)


def test_outputs_without_a_derivative():
    class Winner(LeakyIntegrator):
        def update(self, x):
            return jnp.argmax(super().update(x), axis=-1)

    xs = inputs(4, 2, 3)
    learner = compiled(Winner(), xs=xs)
    message = r"`output` has nothing to take a gradient of: got \['int64'\]; .* \[ETA122\]"
    with pytest.raises(ValueError, match=message):
        check_gradients(learner, xs)
    report = check_gradients(learner, xs, loss=lambda _: jnp.sum(learner.model.h.value**2))
    assert report.ok


class Loop(LeakyIntegrator):
    def update(self, x):
        super().update(x)
        h = self.h.value
        h = jax.lax.while_loop(lambda h: jnp.all(jnp.abs(h) < 3), lambda h: 2 * h + 1, h)  # here
        return self.read(self.h.value + h)


def test_a_model_without_a_reverse_derivative():
    xs = inputs(4, 2, 3)
    learner = compiled(Loop(), xs=xs)
    message = r'`model` has no reverse derivative to compare with: got a `while` loop'
    with pytest.raises(NotSupportedError, match=message) as caught:
        check_gradients(learner, xs)
    assert '[ETA123]' in str(caught.value)
    assert re.search(rf'at {re.escape(__file__)}:\d+ \(Loop.update\)', str(caught.value))


def test_a_model_that_changed_since_it_was_compiled():
    class Scaled(LeakyIntegrator):
        scale = 1.0

        def update(self, x):
            return self.scale * super().update(x)

    xs = inputs(4, 2, 3)
    learner = compiled(Scaled(), xs=xs)
    assert check_gradients(learner, xs).ok
    learner.model.scale = 2.0
    message = r'`model` and its compiled graph do not compute the same: .* at step 0; .*\[ETA124\]'
    with pytest.raises(ValueError, match=message):
        check_gradients(learner, xs)

"""Windows of steps, solved at once, against the same steps one by one."""

import functools

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import etrace_algorithms as ea
from etrace_algorithms.chunks import Budget
from etrace_algorithms.rule import LearningRule
from etrace_algorithms.rules import DiagonalRTRL, d_rtrl
from etrace_algorithms.testing import (
    LeakyIntegrator,
    PlainRNN,
    assert_gradients_close,
    bptt_gradients,
)
from etrace_algorithms.windows import WindowEngine
from etrace_compiler import ControlFlowPolicy, replay

from . import measured
from .branch_models import BRANCHES
from .delay_models import DELAYS
from .loop_models import LOOPS
from .number_models import NUMBERS
from .window_models import (
    BATCH,
    LEARNERS,
    Complete,
    Everything,
    Forgetful,
    Residual,
    Rich,
    assert_same,
    check_windows,
    inputs,
    loss,
    outcome,
    ready,
)
from .wiring_models import WIRING

ZOO = {**WIRING, **DELAYS, **LOOPS, **NUMBERS, **BRANCHES}


def plainly(learner):
    """The loss of the learner's output."""
    return lambda x: loss(learner(x))


# ---------------------------------------------------------------- what is learnt from


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_all_that_a_training_script_does(name):
    """Two layers, masks per element, random numbers, statistics, readouts, regularisation."""
    learner = ready(Rich(), name)
    step = Everything(learner)
    weights = {'w': learner.model.w, 'v': learner.model.v, **step.own}
    targets = inputs(5, seed=8)[..., :2]
    mask = (inputs(5, seed=9)[..., 0] > -0.5) * jnp.arange(1.0, 6.0)[:, None]
    (gradients, losses, aux), _ = check_windows(
        learner, inputs(5), targets, step_fn=step, chunks=(3,), beside=step.beside,
        weights=weights, mask=mask, has_aux=True,
    )  # fmt: skip
    assert gradients.keys() == weights.keys()
    assert losses.shape == mask.shape
    assert list(aux['seen']) == list(range(1, 6))
    alive = [bool(jnp.any(g != 0)) for g in jax.tree.leaves(gradients)]
    assert alive.count(False) == 1  # the parameter that is not used


@pytest.mark.parametrize('name', LEARNERS)
def test_every_learner(name):
    """An old state acts beside its new value."""
    learner = ready(Residual(), name)
    assert learner.executor.evaluator.bypassed
    check_windows(learner, inputs(4), step_fn=plainly(learner), reduction='sum')


@pytest.mark.parametrize(
    'name',
    [
        'four_gates_reshaped', 'tied_with_its_transpose', 'two_populations',
        'stacked_states', 'states_with_units_in_a_tree', 'ring_that_feeds_back',
        'recurrent_substeps', 'ComplexDiagonal', 'UnitNeurons', 'Nested', 'WeightPerMember',
    ],
)  # fmt: skip
def test_models_of_every_kind(name):
    case = ZOO[name]
    learner = measured.compiled(case, 'd_rtrl', None)

    def step(x):
        out = learner(x)
        return measured.loss(out), out

    check_windows(learner, case.xs[:4], step_fn=step, has_aux=True)


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_operations_inside_a_loop_of_the_step(name):
    case, policy = LOOPS['euler'], ControlFlowPolicy(scan_unroll_limit=0)
    learner = measured.compiled(case, name, policy)
    assert {r.substeps for r in learner.graph.hidden_param_op_relations} == {3, 1}
    check_windows(learner, case.xs[:4], step_fn=plainly(learner))


# ---------------------------------------------------------------- sizes and options


def test_any_number_of_steps_per_window():
    learner = ready(PlainRNN())
    assert not learner.executor.evaluator.bypassed
    step = plainly(learner)
    check_windows(learner, inputs(7), step_fn=step, chunks=(2, 20, '2 KB'))


@pytest.mark.parametrize(
    'options',
    [
        {'mask': jnp.array([1.0, 0, 2, 0, 0, 0.5]), 'loss_output': 'masked'},
        {'mask': jnp.zeros(6), 'loss_output': 'scalar'},
        {'loss_output': 'scalar', 'reduction': 'sum'},
    ],
)
def test_options(options):
    learner = ready(LeakyIntegrator())
    check_windows(learner, inputs(6), step_fn=plainly(learner), chunks=(3,), **options)


def test_the_default_takes_windows(monkeypatch):
    taken, run = [], WindowEngine.run

    def spy(self, data, window, *options):
        taken.append(window)
        return run(self, data, window, *options)

    monkeypatch.setattr(WindowEngine, 'run', spy)
    learner = ready(LeakyIntegrator(), 'immediate')
    step = plainly(learner)
    for chunk in (None, 1, np.int32(4), '1 B', 9):
        learner.etrace_grad(inputs(6), step_fn=step, chunk_size=chunk)
    assert taken == [6, 4, 6]


def test_a_state_named_twice_has_its_gradient_twice():
    learner = ready(PlainRNN())
    weights = {'a': learner.model.w, 'b': [learner.model.w, learner.model.b]}
    found, _ = check_windows(learner, inputs(4), step_fn=plainly(learner), weights=weights)
    assert jnp.all(found[0]['a'] == found[0]['b'][0])


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_single_precision(name):
    with brainstate.environ.context(precision=32):
        jax.config.update('jax_enable_x64', False)
        learner = ready(PlainRNN(), name)
        step = plainly(learner)
        found, _ = check_windows(learner, inputs(8), step_fn=step, chunks=(4,), rtol=1e-5)
    assert {g.dtype for g in found[0].values()} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
    ('name', 'dtype', 'rtol'),
    [
        ('d_rtrl', jnp.bfloat16, 3e-2),
        ('d_rtrl', jnp.float16, 3e-3),
        ('pp_prop', jnp.bfloat16, 3e-2),
    ],
)
def test_traces_of_low_precision(name, dtype, rtol):
    """A window rounds the full trace and the smoothed inputs once."""
    learner = ready(LeakyIntegrator(), name, trace_dtype=dtype)
    check_windows(learner, inputs(6), step_fn=plainly(learner), chunks=(3,), rtol=rtol)
    kept = [x.dtype for x in jax.tree.leaves(learner.etrace.value) if x.ndim]
    assert set(kept) == {jnp.dtype(dtype)}


def test_gradients_keep_their_units():
    case = NUMBERS['UnitNeurons']
    learner = measured.compiled(case, 'd_rtrl', None)
    gain = brainstate.ParamState(jnp.array([1.5, 0.5]) * u.mS)
    step = lambda x: jnp.sum((learner(x) * gain.value).to(u.mS).mantissa ** 2)  # noqa: E731
    weights = (learner.param_states, gain)
    (found, _), _ = check_windows(
        learner, case.xs[:4], step_fn=step, weights=weights, beside=[gain]
    )
    assert u.get_unit(found[1]) == u.mS


# ---------------------------------------------------------------- rules of others


class Hooks(ea.ETraceVjpAlgorithm):
    """A learner without a rule: it overrides the four hooks."""

    inner = Forgetful()

    def init_etrace_state(self, *args, **kwargs):
        self._assign_etrace_data({'kept': self.inner.init(self.graph)})

    def _get_etrace_data(self):
        return None if self.etrace is None else self.etrace.value['kept']

    def _assign_etrace_data(self, data):
        super()._assign_etrace_data(data if 'kept' in data else {'kept': data})

    def _update_etrace_data(self, data, lin):
        return self.inner.update(data, lin)

    def _solve_weight_gradients(self, before, after, lin, signal, bypass):
        return self.inner.history(before, after, lin, signal, bypass)


class HalfHistory(DiagonalRTRL):
    """A built-in rule with another history: its window form holds no longer."""

    def history(self, *args):
        return jax.tree.map(lambda g: 0.5 * g, super().history(*args))


@functools.cache
def diagonal():
    learner = ready(Residual())
    (gradients, _), _ = outcome(learner, inputs(4), step_fn=plainly(learner), reduction='sum')
    return gradients


@pytest.mark.parametrize('algorithm', [Forgetful, HalfHistory, Hooks])
def test_rules_without_a_window_form_of_their_own(algorithm):
    learner = ready(Residual(), algorithm)
    found, _ = check_windows(learner, inputs(4), step_fn=plainly(learner), reduction='sum')
    with pytest.raises(AssertionError):
        assert_gradients_close(found[0], diagonal(), rtol=1e-3)  # it is another rule


@pytest.mark.parametrize('transposed', [False, True])
def test_complete_jacobians_of_a_window(transposed):
    """Complete real-time recurrent learning is backpropagation, whatever mixes positions."""
    learner = ready(PlainRNN(), Complete(transposed))
    xs = inputs(4)
    expected = bptt_gradients(learner.model, xs, loss=loss)
    found, _ = check_windows(learner, xs, step_fn=plainly(learner), reduction='sum')
    assert_gradients_close(found[0], expected)


def test_a_rule_that_changes_the_recursion_drops_the_window_form():
    assert HalfHistory.window is LearningRule.window
    assert HalfHistory.gradient is LearningRule.gradient
    assert type('Same', (DiagonalRTRL,), {}).window is DiagonalRTRL.window


# ---------------------------------------------------------------- transformations


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop'])
def test_a_step_of_one_sample_run_by_vmap(name):
    """Every sample draws its own numbers, in both forms the same."""

    class Noisy(LeakyIntegrator):
        def __init__(self):
            super().__init__()
            self.key = brainstate.ShortTermState(jax.random.key(0))

        def update(self, x):
            self.key.value, now = jax.random.split(self.key.value)
            return super().update(x + jax.random.uniform(now, x.shape))

    learner = ready(Noisy(), name, vmap=True)
    check_windows(learner, inputs(4), step_fn=plainly(learner))


def test_epochs_in_a_loop_under_jit():
    """The trace and the states go on from one sequence to the next."""
    learner = ready(PlainRNN())
    states = list(learner.states().values())
    kept = [s.value for s in states]
    epochs, found = inputs(8).reshape((2, 4, 2, 3)), []
    for chunk in (1, 2):

        @brainstate.transform.jit
        def train(epochs, chunk=chunk):
            def epoch(xs):
                return learner.etrace_grad(
                    xs, step_fn=plainly(learner), chunk_size=chunk, return_value=True
                )

            return brainstate.transform.for_loop(epoch, epochs)

        found.append((train(epochs), [s.value for s in states]))
        for state, value in zip(states, kept, strict=True):
            state.value = value
    assert_same(found[1], found[0])


def test_a_vmap_of_the_user():
    """Several sequences at once, each with states of its own after it."""
    learner = ready(LeakyIntegrator())
    step, batch, found = plainly(learner), inputs(12).reshape((3, 4, 2, 3)), []
    for chunk in (1, 2):
        run = brainstate.transform.StatefulFunction(
            lambda xs, chunk=chunk: learner.etrace_grad(xs, step_fn=step, chunk_size=chunk),
            return_only_write=False,
        ).make_jaxpr(batch[0])
        states = run.get_states(batch[0])
        values = [s.value for s in states]
        after, gradients = jax.jit(jax.vmap(lambda xs: run.jaxpr_call(values, xs)))(batch)  # noqa: B023
        by_state = {id(s): value for s, value in zip(states, after, strict=True)}
        found.append((gradients, [by_state[id(s)] for s in learner.states().values()]))
    assert_same(found[1], found[0])


def test_the_second_call_compiles_nothing():
    learner, traced = ready(LeakyIntegrator()), []

    def step(x):
        traced.append(1)
        return loss(learner(x))

    learner.etrace_grad(inputs(5), step_fn=step, chunk_size=2)
    once = len(traced)
    learner.model.w.value = 2 * learner.model.w.value
    learner.etrace_grad(inputs(5, seed=8), step_fn=step, chunk_size=2)
    assert len(traced) == once


# ---------------------------------------------------------------- negative controls

look_back, advance_window = d_rtrl.look_back, d_rtrl.advance_window


def forget_bypass(lin, signal, bypass):
    return look_back(lin, signal, None)


def forget_products(trace, lin, products, entering):
    return advance_window(trace, lin, jax.tree.map(jnp.zeros_like, products), entering)


@pytest.mark.parametrize(
    ('name', 'broken'), [('look_back', forget_bypass), ('advance_window', forget_products)]
)
def test_control_a_broken_engine_is_found(name, broken, monkeypatch):
    learner = ready(Residual())
    monkeypatch.setattr(d_rtrl, name, broken)
    with pytest.raises(AssertionError, match='Not equal to tolerance'):
        check_windows(learner, inputs(4), step_fn=plainly(learner))


# ---------------------------------------------------------------- how many steps


@settings(deadline=None)
@given(st.integers(1, 10**9), st.integers(0, 10**8), st.integers(1, 3000))
def test_a_budget_gives_windows_that_fit(size, per_step, length):
    steps = Budget(size).steps(per_step, length)
    most = max(1, min(size // max(per_step, 1), length, 256))
    assert 1 <= steps <= most
    assert steps == 1 or steps * per_step <= size
    equal = max(k for k in range(1, most + 1) if length % k == 0)
    assert steps == (equal if 2 * equal > most else most)


def test_by_default_a_window_is_as_large_as_the_trace():
    mebi = 2**20
    assert Budget().steps(mebi, 1024) == 32
    assert Budget().steps(mebi, 1024, trace=64 * mebi) == 64
    assert Budget(8 * mebi).steps(mebi, 1024, trace=64 * mebi) == 8


def test_by_default_a_window_may_be_a_little_larger_to_divide_the_sequence():
    mebi = 2**20
    assert Budget().steps(mebi, 36 * 10) == 36
    assert Budget(32 * mebi).steps(mebi, 36 * 10) == 30


@pytest.mark.parametrize('chunk', [0, -1, 2.0, True, 'many', 'MB', [2], jnp.ones(())])
def test_a_size_that_is_none_is_refused(chunk):
    learner = ready(LeakyIntegrator(), 'immediate')
    text = r"(?s)`chunk_size` is out of range: got .*'auto', or the bytes .*'64 MB'.*ETA108"
    for run in (learner.etrace_grad, learner.etrace_evolve):
        with pytest.raises(ValueError, match=text):
            run(inputs(2), step_fn=plainly(learner), chunk_size=chunk)


def test_bytes_are_for_learners_that_solve_windows():
    learner = ready(LeakyIntegrator(), 'immediate', vjp_method='multi-step')
    text = r'expected None, or an integer of at least 1\. .*ETA108'
    with pytest.raises(ValueError, match=text):
        learner.etrace_grad(inputs(2), step_fn=plainly(learner), chunk_size='auto')


# ---------------------------------------------------------------- without gradients


@pytest.mark.parametrize('name', ['d_rtrl', 'pp_prop', 'immediate'])
def test_evolving_by_windows_is_evolving_by_steps(name):
    """Outputs, states, random keys and traces; two layers, dropout, statistics."""
    learner = ready(Rich(), name)
    step = Everything(learner)
    states = [*learner.states().values(), *step.beside, brainstate.random.DEFAULT]
    start = [jax.tree.map(jnp.copy, s.value) for s in states]
    found = []
    for chunk in (1, 2, None):
        for state, value in zip(states, start, strict=True):
            state.value = jax.tree.map(jnp.copy, value)
        outputs = learner.etrace_evolve(
            inputs(5), step_fn=lambda x: step(x, x[..., :2]), return_outputs=True, chunk_size=chunk
        )
        found.append((outputs, [s.value for s in states]))
    for other in found[1:]:
        assert_same(other, found[0])
    moved = [bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(found[0][1][:-1]),
             jax.tree.leaves(start[:-1]), strict=True)
             if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]  # fmt: skip
    assert any(moved)


def test_products_of_the_forward_pass_are_not_computed_again(monkeypatch):
    """By the operations that XLA counts: one loop over steps, and what stands side by side."""

    def operations():
        learner = ready(PlainRNN(3, 40, 2))
        xs = inputs(8)
        run = brainstate.transform.StatefulFunction(
            lambda xs: learner.etrace_grad(xs, step_fn=plainly(learner), chunk_size=8)
        ).make_jaxpr(xs)
        states = [state.value for state in run.get_states(xs)]
        compiled = jax.jit(run.jaxpr_call).lower(states, xs).compile()
        return compiled.cost_analysis()['flops']

    recalled = operations()
    monkeypatch.setattr(replay, 'is_product', lambda eqn: False)
    again = operations() - recalled
    assert again > 0.9 * 2 * 8 * BATCH * (3 + 40) * 40

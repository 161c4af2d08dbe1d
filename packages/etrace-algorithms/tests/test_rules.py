"""The rules against their published formulas."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import etrace_algorithms as ea
from etrace_algorithms import algebra
from etrace_algorithms.plugins.spec import EXACTNESS
from etrace_algorithms.rule import Exactness
from etrace_algorithms.rules import DiagonalRTRL, ImmediateDerivatives, IODimTrace, as_decay
from etrace_algorithms.testing import (
    ElementwiseDecay,
    LeakyIntegrator,
    PlainRNN,
    assert_gradients_close,
    online_gradients,
)


def inputs(steps, batch=3, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, batch, 3)))


def loss(y):
    return jnp.sum(y**2)


def literal_pp_prop(model, xs, alpha, debias):
    """The formulas of pp_prop in NumPy, for h' = 0.9 h + x W + b and loss sum (h' R)^2."""
    w, b, r = (np.asarray(p.value) for p in (model.w, model.b, model.readout))
    steps, batch, fan_in = xs.shape
    h = np.zeros((batch, w.shape[1]))
    trace_x, trace_one = np.zeros((batch, fan_in)), np.zeros((batch, 1))
    trace_f = np.zeros_like(h)
    grad_w, grad_b = np.zeros_like(w), np.zeros_like(b)
    for t in range(steps):
        x = np.asarray(xs[t])
        h = 0.9 * h + x @ w + b
        signal = 2 * (h @ r) @ r.T
        trace_x = alpha * trace_x + x
        trace_f = alpha * 0.9 * trace_f + (1 - alpha) * np.ones_like(h)
        # a bias has the input 1
        trace_one = alpha * trace_one + 1
        scale = 1 / (1 - alpha ** (t + 1)) if debias else 1.0
        grad_w += np.einsum('bo,bi->io', signal * trace_f * scale, trace_x)
        grad_b += (signal * trace_f * scale * trace_one).sum(0)
    return {('w',): grad_w, ('b',): grad_b}


@pytest.mark.parametrize('debias', [False, True])
@pytest.mark.parametrize('alpha', [0.0, 0.5, 0.9])
def test_pp_prop_is_its_published_formula(alpha, debias):
    xs = inputs(7)
    learner = ea.compile(
        LeakyIntegrator(), 'pp_prop', xs[0], batch_size=3, decay_or_rank=alpha, debias=debias
    )
    actual = online_gradients(learner, xs, loss=loss)
    assert_gradients_close(actual, literal_pp_prop(learner.model, xs, alpha, debias), rtol=1e-10)


def test_control_another_decay_is_another_gradient():
    xs = inputs(7)
    learner = ea.compile(LeakyIntegrator(), 'pp_prop', xs[0], batch_size=3, decay_or_rank=0.8)
    actual = online_gradients(learner, xs, loss=loss)
    with pytest.raises(AssertionError):
        assert_gradients_close(actual, literal_pp_prop(learner.model, xs, 0.9, True), rtol=1e-3)


@pytest.mark.parametrize('model', [PlainRNN, ElementwiseDecay])
def test_pp_prop_without_memory_is_the_immediate_rule(model):
    xs = inputs(6)
    flat = ea.compile(model(), 'pp_prop', xs[0], batch_size=3, decay_or_rank=0.0)
    none = ea.compile(model(), 'immediate', xs[0], batch_size=3)
    assert_gradients_close(
        online_gradients(flat, xs, loss=loss), online_gradients(none, xs, loss=loss)
    )


def test_pp_prop_takes_a_decay_for_each_factor():
    xs = inputs(6)
    learner = ea.pp_prop(LeakyIntegrator(), decay_or_rank=(0.5, 19))
    assert (learner.rule.decay_x, learner.rule.decay_f) == (0.5, 0.9)
    brainstate.nn.init_all_states(learner.model, 3)
    learner.compile_graph(xs[0])
    learner(xs[0])
    learner(xs[1])
    np.testing.assert_allclose(
        learner.etrace.value['x']['w'][:, 0], 0.5 * xs[0] + xs[1], rtol=1e-12
    )


def test_a_rank_is_a_decay():
    assert as_decay(19) == pytest.approx(0.9)
    assert as_decay(1) == 0.0
    assert as_decay(np.int32(19)) == pytest.approx(0.9)


@pytest.mark.parametrize('bad', [1.0, 1.5, -0.1, 0, -3, float('nan')])
def test_a_decay_or_rank_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=r'`decay_or_rank` is out of range: got .*ETA101'):
        ea.pp_prop(LeakyIntegrator(), decay_or_rank=bad)


@pytest.mark.parametrize('bad', [True, False, 'fast', None])
def test_what_is_neither_decay_nor_rank_is_refused(bad):
    with pytest.raises(TypeError, match=r'neither a decay nor a rank: got .*ETA101'):
        ea.pp_prop(LeakyIntegrator(), decay_or_rank=bad)


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 5),
    seed=st.integers(0, 2**31 - 1),
)
def test_trace_algebra_is_its_einsum(sizes, seed):
    g, h, i, o, s = sizes
    rng = np.random.default_rng(seed)
    f, signal = rng.normal(size=(2, g, h, o, s))
    x = rng.normal(size=(g, h, i))
    trace = rng.normal(size=(s, g, h, i, o))
    diagonal = rng.normal(size=(g, h, o, s, s))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    close(algebra.outer(f, x), np.einsum('ghos,ghi->sghio', f, x))
    new = np.einsum('ghort,tghio->rghio', diagonal, trace) + np.einsum('ghos,ghi->sghio', f, x)
    close(algebra.advance(tuple(trace), diagonal, f[None], x[None]), new)
    close(algebra.carry_drive(diagonal, f), np.einsum('ghort,ghot->ghor', diagonal, f))
    close(algebra.contract(signal, tuple(trace)), np.einsum('ghos,sghio->hio', signal, trace))
    close(algebra.outer_gradient(signal, f, x), np.einsum('ghos,ghos,ghi->hio', signal, f, x))
    close(algebra.apply_diagonal(diagonal, signal), np.einsum('ghost,ghos->ghot', diagonal, signal))


def test_a_contraction_over_many_samples_is_the_same():
    rng = np.random.default_rng(0)
    signal, trace = rng.normal(size=(100, 1, 3, 2)), rng.normal(size=(2, 100, 1, 4, 3))
    np.testing.assert_allclose(
        algebra.contract(signal, tuple(trace)),
        np.einsum('ghos,sghio->hio', signal, trace),
        rtol=1e-9,
    )


def test_traces_of_d_rtrl_follow_their_recursion():
    xs = inputs(5)
    learner = ea.compile(PlainRNN(), 'd_rtrl', xs[0], batch_size=3)
    executor = learner.executor
    want = {r.key: 0.0 for r in learner.graph.hidden_param_op_relations}
    for x in xs:
        lin = executor.linearise(x)
        for r in lin.relations:
            step = np.einsum('ghos,ghi->sghio', lin.f[r.key][0], lin.x[r.key])
            if not np.isscalar(want[r.key]):
                step = step + np.einsum('ghort,tghio->rghio', lin.D_at(r, 0), want[r.key])
            want[r.key] = step
        learner(x)
    for key, value in want.items():
        np.testing.assert_allclose(learner.etrace.value[key][0], value, rtol=1e-10)
        assert np.abs(value).max() > 0


def test_trace_dtype_is_kept_and_close():
    xs = inputs(6).astype(jnp.float32)
    with brainstate.environ.context(precision=32):
        for name, options in (('d_rtrl', {}), ('pp_prop', {'decay_or_rank': 0.9})):
            for dtype in (jnp.bfloat16, jnp.float16):
                model = LeakyIntegrator()
                for state in model.states(brainstate.ParamState).values():
                    state.value = state.value.astype(jnp.float32)
                low = ea.compile(model, name, xs[0], batch_size=3, trace_dtype=dtype, **options)
                low(xs[0])
                kept = [x.dtype for x in jax.tree.leaves(low.etrace.value) if x.ndim > 1]
                assert set(kept) == {jnp.dtype(dtype)}
                brainstate.nn.reset_all_states(model)
                low.init_etrace_state()
                a = online_gradients(low, xs, loss=loss)
                full = ea.compile(model, name, xs[0], batch_size=3, **options)
                b = online_gradients(full, xs, loss=loss)
                assert a[('w',)].dtype == jnp.float32
                np.testing.assert_allclose(a[('w',)], b[('w',)], rtol=0.05, atol=0.5)


def test_rules_say_what_they_promise():
    assert DiagonalRTRL().exactness is Exactness.EXACT_DIAGONAL
    assert IODimTrace(0.9, 0.9).exactness is Exactness.APPROXIMATE
    assert ImmediateDerivatives().exactness is Exactness.IMMEDIATE
    assert {str(e) for e in Exactness} == set(EXACTNESS)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64', 'complex128'])
def test_a_stored_value_is_the_value_bit_by_bit(dtype):
    edges = [0.0, -0.0, 1.5, -3.0, jnp.inf, -jnp.inf, jnp.nan, jnp.finfo(dtype).tiny]
    value = jnp.asarray(edges, dtype)
    if dtype == 'complex128':
        value = jax.lax.complex(value.real, value.real[::-1])
    other = value[::-1]
    for found in (algebra.store(value), algebra.store(value, other)):
        assert found.dtype == value.dtype
        parts = [(found.real, value.real), (found.imag, value.imag)]
        for a, b in parts if jnp.iscomplexobj(value) else parts[:1]:
            np.testing.assert_array_equal(np.asarray(a, float), np.asarray(b, float))
            np.testing.assert_array_equal(np.signbit(a), np.signbit(b))

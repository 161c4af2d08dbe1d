"""Traces of a look-up with room for the rows in use alone."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_algorithms as ea
from etrace_algorithms.rules import DiagonalRTRL, advance_traces, zero_traces
from etrace_algorithms.testing import assert_gradients_close, bptt_gradients, online_gradients
from etrace_compiler import element_wise, embedding

ROWS, WIDTH, B, T = 12, 3, 2, 9
#: Per sample four different rows, in turn and again.
TOKENS = jnp.asarray(np.stack([[1, 2, 1, 3, 4, 1, 1, 2, 4], [7, 7, 0, 11, 3, 7, 0, 0, 7]], 1))


class Reader(brainstate.nn.Module):
    """A leaky trace of what is read: nothing is lost by following the diagonal."""

    def __init__(self, active_rows=None, rows=ROWS, width=WIDTH):
        super().__init__()
        self.active_rows = active_rows
        values = np.random.RandomState(0).randn(rows, width)
        self.table = brainstate.ParamState(jnp.asarray(values))
        self.decay = brainstate.ParamState(jnp.linspace(0.7, 0.9, width))

    def init_state(self, batch_size=None, **_):
        lead = () if batch_size is None else (batch_size,)
        self.h = brainstate.HiddenState(jnp.zeros((*lead, self.decay.value.shape[0])))

    def update(self, token):
        drive = embedding(token, self.table.value, active_rows=self.active_rows)
        self.h.value = jnp.tanh(element_wise(self.decay.value) * self.h.value + drive)
        return self.h.value


def loss(y):
    return jnp.sum(y**2) + jnp.sum(jnp.sin(y))


def learned(active_rows, algorithm='d_rtrl', chunk=1, **options):
    learner = ea.compile(Reader(active_rows), algorithm, TOKENS[0], batch_size=B, **options)
    found = online_gradients(learner, TOKENS, loss=loss, chunk_size=chunk)
    return found, jax.tree.map(jnp.asarray, learner.etrace.value)


def by_backpropagation():
    model = Reader()
    brainstate.nn.init_all_states(model, batch_size=B)
    return bptt_gradients(model, TOKENS, loss=loss)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'chunk': 4},
        {'vmap': True},
        {'fast_solve': False},
        {'algorithm': DiagonalRTRL(carried_only=True)},
    ],
)
def test_room_for_the_rows_in_use_is_exact(options):
    found, trace = learned(4, **options)
    assert_gradients_close(found, by_backpropagation())
    assert not trace['table'].table.dropped.any()
    assert sorted(trace['table'].table.index[0].ravel()) == [1, 2, 3, 4]


def test_control_room_for_too_few_is_not_exact():
    """The row of longest ago makes room, and it is counted.

    Credit within a window does not need the trace: nothing is dropped there. The trace at its end
    is that of its steps.
    """
    expected = by_backpropagation()
    steps, trace = learned(2)
    window, after = learned(2, chunk=4)
    whole, _ = learned(2, chunk=T)
    errors = [jnp.abs(g['table',] - expected['table',]).max() for g in (steps, window, whole)]
    assert errors[0] > 1.2 * errors[1] > 0.1
    assert_gradients_close(whole, expected)
    del expected['table',]  # other parameters keep their traces
    assert_gradients_close(steps, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), after, trace)
    held = trace['table'].table
    assert held.index[:, 0].tolist() == [[2, 4], [7, 0]]
    assert held.age[:, 0].tolist() == [[1, 0], [0, 1]]
    assert held.dropped[:, 0].tolist() == [5, 4]


def test_a_rule_that_scales_its_trace_has_room_for_all():
    class Scaled(DiagonalRTRL):
        def init(self, graph):
            return zero_traces(graph)

        def update(self, trace, lin):
            return advance_traces(jax.tree.map(lambda e: 1.0 * e, trace), lin)

    assert_gradients_close(learned(1, Scaled())[0], by_backpropagation())


def test_the_graph_says_so():
    learner = ea.compile(Reader(2), 'd_rtrl', TOKENS[0], batch_size=B)
    (record,) = learner.graph.explain(weight_path='table', kind='relation_included')
    assert 'while no more than 2 of its 12 inputs are in use' in record.message


def test_bytes_do_not_grow_with_the_table():
    """They are those of 64 slots for each sample, whatever the vocabulary."""
    sizes = {}
    for rows, active in ((32_000, None), (32_000, 64), (64_000, 64)):
        tokens, model = jax.ShapeDtypeStruct((16,), int), Reader(active, rows, 8)
        plan = ea.memory_plan(model, tokens, learners=('d_rtrl', 'pp_prop'), batch_size=16)
        sizes[rows, active] = [cost.by_relation['table'] for cost in plan.learners]
    assert sizes[32_000, None] == [16 * 32_000 * 8 * 8, 16 * (32_000 + 8) * 8]
    slots = 16 * 64
    table = 2 * slots * 4 + 16 * 4
    assert sizes[32_000, 64] == [slots * 8 * 8 + table, (slots + 16 * 8) * 8 + table]
    assert sizes[64_000, 64] == sizes[32_000, 64]


def test_two_factors_with_room_for_the_rows_in_use():
    """As with room for all; with too little the windows are those of the steps no more."""
    options = {'algorithm': 'pp_prop', 'decay_or_rank': 0.8}
    expected, _ = learned(None, **options)
    for more in ({}, {'chunk': 4}, {'fast_solve': False, 'vmap': True}):
        found, trace = learned(4, **options, **more)
        assert_gradients_close(found, expected)
        assert not trace['x']['table'].table.dropped.any()
    steps, trace = learned(2, **options)
    assert not np.allclose(steps['table',], expected['table',], rtol=0.01)
    _, after = learned(2, **options, chunk=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), after, trace)

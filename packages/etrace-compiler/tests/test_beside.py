"""Which columns of a marked operation act on anything but by way of the states that they drive."""

from dataclasses import replace

import brainstate
import jax
import jax.numpy as jnp
import pytest

from etrace_compiler import columns_beside, compile_etrace_graph, matmul

N = 3


class Step(brainstate.nn.Module):
    """A step of states `h` and `g` of `N` units, written as a function of the module and `x`."""

    def __init__(self, step, columns=N):
        super().__init__()
        self.step = step
        self.w = brainstate.ParamState(jnp.full((N, columns), 0.3))
        self.u = brainstate.ParamState(jnp.full((N, N), 0.2))
        self.h, self.g = (brainstate.HiddenState(jnp.full(N, 0.1)) for _ in range(2))

    def update(self, x):
        return self.step(self, x)


def leaky(m, x):
    m.h.value = 0.9 * m.h.value + matmul(x, m.w.value)
    return m.h.value


def recurrent(m, x):
    m.h.value = jnp.tanh(matmul(x, m.w.value) + m.h.value @ m.u.value)
    return m.h.value @ m.u.value


def gated(m, x):
    reset, keep = jnp.split(jax.nn.sigmoid(matmul(x, m.w.value)), 2)
    new = jnp.tanh(x + matmul(reset * m.h.value, m.u.value))
    m.h.value = keep * m.h.value + (1 - keep) * new
    return m.h.value


def seen_before(m, x):
    drive = matmul(x, m.w.value)
    m.h.value = 0.9 * m.h.value + drive
    return m.h.value + drive


def seen_before_but_fixed(m, x):
    drive = matmul(x, m.w.value)
    m.h.value = 0.9 * m.h.value + drive
    return m.h.value + jax.lax.stop_gradient(drive)


def partly_seen(m, x):
    drive = matmul(x, m.w.value)
    m.h.value = 0.9 * m.h.value + drive
    return drive[1:2]


def two_states(m, x):
    m.g.value = 0.9 * m.g.value + matmul(x, m.w.value)
    m.h.value = 0.5 * m.h.value + jnp.tanh(m.g.value) * m.g.value
    return m.h.value


def two_layers(m, x):
    m.g.value = 0.9 * m.g.value + matmul(x, m.w.value)
    m.h.value = jnp.tanh(m.h.value + m.g.value @ m.u.value)
    return m.h.value


def around_a_layer(m, x):
    drive = matmul(x, m.w.value)
    m.g.value = 0.9 * m.g.value + drive
    m.h.value = jnp.tanh(m.h.value + (m.g.value + drive) @ m.u.value)
    return m.h.value


def mixed_within(m, x):
    m.g.value = 0.9 * m.g.value + matmul(x, m.w.value)
    m.h.value = 0.9 * m.h.value + m.g.value + m.g.value @ m.u.value
    m.g.value = m.g.value + 0.1 * m.h.value
    return m.h.value


def in_a_loop(m, x):
    def substep(i):
        m.h.value = 0.9 * m.h.value + matmul(x * i, m.w.value)

    brainstate.transform.for_loop(substep, jnp.arange(40))
    return m.h.value


@pytest.mark.parametrize(
    ('step', 'columns', 'beside'),
    [
        (leaky, N, []),
        (recurrent, N, []),
        (gated, 2 * N, [0, 1, 2]),
        (seen_before, N, [0, 1, 2]),
        (seen_before_but_fixed, N, []),
        (partly_seen, N, [1]),
        (two_states, N, []),
        (two_layers, N, []),
        (around_a_layer, N, [0, 1, 2]),
        (mixed_within, N, [0, 1, 2]),
        (in_a_loop, N, [0, 1, 2]),
    ],
)
def test_columns_with_a_way_of_their_own_are_named(step, columns, beside):
    graph = compile_etrace_graph(Step(step, columns), jnp.ones(N))
    assert columns_beside(graph)['w'].tolist() == beside


def test_a_part_of_a_graph_has_its_own_answer():
    graph = compile_etrace_graph(Step(gated, 2 * N), jnp.ones(N))
    assert {k: len(v) for k, v in columns_beside(graph).items()} == {'w': 3, 'u': 0}
    assert list(columns_beside(graph.part(['u']))) == ['u']


def test_a_traced_caller_may_ask_first():
    """What an operator makes of its result may be arithmetic of JAX."""
    graph = compile_etrace_graph(Step(seen_before), jnp.ones(N))
    (relation,) = graph.hidden_param_op_relations
    original = relation.operator.y_block

    def y_block(y, *args, **params):
        return jnp.asarray(original(y, *args, **params))

    object.__setattr__(relation, 'operator', replace(relation.operator, y_block=y_block))
    jax.jit(lambda: len(columns_beside(graph)))()
    assert columns_beside(graph)['w'].tolist() == [0, 1, 2]

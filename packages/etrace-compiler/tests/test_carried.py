"""The part of a graph that a step hands on: states whose old values act, and what drives them."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etrace_compiler as ec
from etrace_nn import GRUCell, LSTMCell, ValinaRNNCell


def graph_of(model, *args):
    brainstate.nn.init_all_states(model)
    return ec.compile_etrace_graph(model, *args)


class Gates(brainstate.nn.Module):
    """An LSTM whose gates have weights of their own; states in either order of their names."""

    def __init__(self, output='h', cell='c'):
        super().__init__()
        rng = np.random.default_rng(0)
        for name in 'ifgo':
            setattr(self, name, brainstate.ParamState(jnp.asarray(rng.normal(size=(5, 3)))))
        self.names = output, cell
        for name in self.names:
            setattr(self, name, brainstate.HiddenState(jnp.zeros(3)))

    def update(self, x):
        h, c = (getattr(self, name) for name in self.names)
        joined = jnp.concatenate([x, h.value])
        i, f, g, o = (ec.matmul(joined, getattr(self, name).value) for name in 'ifgo')
        c.value = jax.nn.sigmoid(f) * c.value + jax.nn.sigmoid(i) * jnp.tanh(g)
        h.value = jax.nn.sigmoid(o) * jnp.tanh(c.value)
        return h.value


@pytest.mark.parametrize('names', [('h', 'c'), ('a', 'b')])
def test_an_output_that_acts_through_its_product_alone(names):
    graph = graph_of(Gates(*names), jnp.ones(2))
    (group,) = graph.hidden_groups
    part = ec.carried_part(graph)
    assert ec.carried_states(graph, group) == [group.hidden_paths.index((names[1],))]
    assert part.hidden_groups[0].hidden_paths == ((names[1],),)
    assert [r.key for r in part.hidden_param_op_relations] == ['i', 'f', 'g']
    assert [r.key for r in graph.hidden_param_op_relations] == ['i', 'f', 'g', 'o']
    assert ec.carried_part(graph) is part


def test_the_columns_of_a_fused_product():
    graph = graph_of(LSTMCell(2, 3), jnp.ones(2))
    (relation, *_) = ec.carried_part(graph).hidden_param_op_relations
    (whole, *_) = graph.hidden_param_op_relations
    assert len(whole.columns[0]) == 12
    assert len(relation.columns[0]) == 9
    assert set(relation.columns[0]) < set(whole.columns[0])
    assert relation.trace_shape(0) == (1, 1, 5, 9)


def test_where_everything_carries_it_is_the_graph():
    graph = graph_of(GRUCell(2, 3), jnp.ones(2))
    assert ec.carried_part(graph) is graph
    assert ec.carried_states(graph, graph.hidden_groups[0]) == [0]


def test_where_nothing_carries_there_is_no_relation():
    graph = graph_of(ValinaRNNCell(2, 3), jnp.ones(2))
    part = ec.carried_part(graph)
    assert part.hidden_param_op_relations == ()
    assert part.hidden_groups == graph.hidden_groups
    assert graph.hidden_param_op_relations


class Seen(brainstate.nn.Module):
    """A plain recurrence whose old state is seen in some other way as well."""

    def __init__(self, way):
        super().__init__()
        self.w = brainstate.ParamState(jnp.eye(3))
        self.h, self.k = (brainstate.HiddenState(jnp.zeros(3)) for _ in range(2))
        self.way = way

    def update(self, x):
        old = self.h.value
        self.h.value = jnp.tanh(ec.matmul(old, self.w.value) + x)
        if self.way == 'by the loss':
            return self.h.value + old
        if self.way == 'without derivative':
            return self.h.value + jnp.round(old) + jax.lax.stop_gradient(old)
        self.k.value = 0.5 * self.k.value + (old if self.way == 'by another state' else x)
        return self.h.value + self.k.value


@pytest.mark.parametrize(
    ('way', 'carries'),
    [('by the loss', True), ('by another state', True), ('by nothing', False),
     ('without derivative', False)],
)  # fmt: skip
def test_every_way_of_being_seen_counts(way, carries):
    graph = graph_of(Seen(way), jnp.ones(3))
    keys = {r.key for r in ec.carried_part(graph).hidden_param_op_relations}
    assert ('w' in keys) == carries

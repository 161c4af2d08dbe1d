"""Relations: which parameters stand behind an operator, through which chain, to which groups."""

import functools

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    DiagnosticKind,
    ETraceVjpGraphExecutor,
    compile_etrace_graph,
    effective_weights,
    element_wise,
    matmul,
)

from . import models
from .oracle import text_at, values_of

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def compiled(model, x=None):
    executor = ETraceVjpGraphExecutor(models.ready(model))
    executor.compile_graph(models.random(3) if x is None else x)
    return executor


class Chain(models.Cell):
    """A cell whose input weight is `weigh(model)`."""

    def __init__(self, weigh, **params):
        super().__init__()
        self.weigh = weigh
        for name, value in params.items():
            setattr(self, name, brainstate.ParamState(value()))

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.weigh(self))
        return self.h.value


mask = np.random.RandomState(60).rand(3, 4) > 0.5

#: Effective weight, how to make further parameters, and the parameters in its chain.
CHAINS = {
    'plain': (lambda m: m.W.value, {}, ['W']),
    'mask': (lambda m: m.W.value * mask, {}, ['W']),
    'square': (lambda m: m.W.value**2, {}, ['W']),
    'transpose': (lambda m: m.A.value.T, {'A': lambda: models.random(4, 3)}, ['A']),
    'sign constraint': (lambda m: jnp.abs(m.W.value) * jnp.array([1.0, -1, 1, -1]), {}, ['W']),
    'weight norm': (
        lambda m: m.g.value * m.W.value / jnp.linalg.norm(m.W.value, axis=0, keepdims=True),
        {'g': lambda: models.random(4)}, ['W', 'g'],
    ),
    'slice': (lambda m: m.A.value[2:5], {'A': lambda: models.random(7, 4)}, ['A']),
    'concatenated': (
        lambda m: jnp.concatenate([m.A.value, m.B.value]),
        {'A': lambda: models.random(1, 4), 'B': lambda: models.random(2, 4, seed=1)}, ['A', 'B'],
    ),
    'product': (
        lambda m: m.A.value @ m.B.value,
        {'A': lambda: models.random(3, 2), 'B': lambda: models.random(2, 4, seed=1)}, ['A', 'B'],
    ),
    'marked product': (
        lambda m: matmul(m.A.value, m.B.value),
        {'A': lambda: models.random(3, 2), 'B': lambda: models.random(2, 4, seed=1)}, ['A', 'B'],
    ),
    'pytree': (
        lambda m: m.P.value['weight'] * m.P.value['gain'][0],
        {'P': lambda: {'weight': models.random(3, 4), 'gain': [models.random(4)]}}, ['P'],
    ),
    'gathered': (
        lambda m: m.A.value[jnp.array([3, 0, 1])], {'A': lambda: models.random(4, 4)}, ['A'],
    ),
    'inside jit': (lambda m: jax.jit(jnp.tanh)(m.W.value), {}, ['W']),
    'inside checkpoint': (lambda m: jax.checkpoint(jnp.tanh)(m.W.value), {}, ['W']),
    'relu': (lambda m: jax.nn.relu(m.W.value), {}, ['W']),
}  # fmt: skip


@pytest.mark.parametrize('name', CHAINS)
def test_chain_is_traced_back_to_its_parameters(name):
    """The relation knows its parameters, its value, and how to pull a gradient back."""
    weigh, params, paths = CHAINS[name]
    model = Chain(weigh, **params)
    executor = compiled(model)
    graph = executor.graph
    (relation,) = graph.hidden_param_op_relations
    assert sorted(p[0] for p in relation.trainable_paths) == paths
    assert relation.path == relation.trainable_paths[0]
    assert relation.exact
    values = values_of(graph)
    found = effective_weights(graph, values)[relation.key]
    close(found, weigh(model)[None])

    def weight(params):
        live = type('Live', (), {k: type('P', (), {'value': v})() for k, v in params.items()})
        return weigh(live)

    used = {p: values[p] for p in paths}
    cotangent = models.random(3, 4, seed=61)
    (expected,) = jax.vjp(weight, used)[1](cotangent)
    pull = jax.vjp(lambda v: effective_weights(graph, {**values, **v})[relation.key], used)[1]
    jax.tree.map(close, pull(cotangent[None])[0], expected)
    for path in relation.trainable_paths:
        kinds = [r.kind for r in graph.explain(weight_path=path)]
        assert DiagnosticKind.RELATION_INCLUDED in kinds


@pytest.mark.parametrize(
    'weigh', [lambda m: m.W.value * m.h.value, lambda m: m.W.value + jnp.sum(m.h.value)]
)
def test_chain_that_reads_a_state_is_refused(weigh):
    graph = compiled(Chain(weigh)).graph
    assert graph.hidden_param_op_relations == ()
    (record,) = graph.explain(weight_path='W')
    assert record.kind is DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE


def test_chain_that_reads_the_result_of_another_operator():
    """A fast weight: the record is about its own parameter, not about the other operator's."""

    class Fast(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value)
            fast = self.R.value * y
            self.h.value = 0.5 * self.h.value + y + matmul(self.h.value, fast)
            return self.h.value

    graph = compiled(Fast()).graph
    (record,) = graph.explain(kind=DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE)
    assert record.weight_path == ('R',)
    assert [r.key for r in graph.hidden_param_op_relations] == ['W']


def test_keys_name_the_leaf_of_a_pytree():
    class Tree(models.Cell):
        def __init__(self):
            super().__init__()
            del self.W, self.R, self.b
            self.p = brainstate.ParamState({'w': models.random(3, 4), 'b': models.random(4)})

        def update(self, x):
            p = self.p.value
            self.h.value = 0.5 * self.h.value + matmul(x, p['w'], p['b'])
            return self.h.value

    graph = compiled(Tree()).graph
    assert [r.key for r in graph.hidden_param_op_relations] == ['p.w', 'p.b']
    assert [r.path for r in graph.hidden_param_op_relations] == [('p',), ('p',)]


def test_tied_weight_has_a_relation_for_each_use():
    class Tied(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value) + matmul(2 * x, self.W.value)
            self.h.value = 0.5 * self.h.value + y + matmul(x, self.W.value**2)
            return self.h.value

    executor = compiled(Tied())
    graph, lin = executor.graph, executor.linearise(models.random(3))
    assert [r.key for r in graph.hidden_param_op_relations] == ['W', 'W#2', 'W#3']
    assert {r.path for r in graph.hidden_param_op_relations} == {('W',)}
    close(lin.x['W#2'], 2 * lin.x['W'])
    assert len(graph.explain(weight_path='W')) == 3


def test_one_state_under_two_names_is_one_parameter():
    class Shared(models.Cell):
        def __init__(self):
            super().__init__()
            self.again = self.W

        def update(self, x):
            self.h.value = (
                0.5 * self.h.value + matmul(x, self.W.value) + matmul(x, self.again.value)
            )
            return self.h.value

    graph = compiled(Shared()).graph
    assert len(graph.hidden_param_op_relations) == 2
    assert len({r.path for r in graph.hidden_param_op_relations}) == 1


# ---------------------------------------------------------------- element_wise


def leak(model):
    return jax.nn.sigmoid(element_wise(model.decay.value))


def leak_inside(model):
    return element_wise(jax.nn.sigmoid(model.decay.value))


def leak_by_hook(model):
    return element_wise(model.decay.value, weight_fn=jax.nn.sigmoid)


def leak_broadcast_after(model):
    return jnp.broadcast_to(jax.nn.sigmoid(element_wise(model.decay.value)), model.h.value.shape)


def leak_broadcast_before(model):
    return element_wise(jnp.broadcast_to(jax.nn.sigmoid(model.decay.value), model.h.value.shape))


class WithLeak(models.Cell):
    """The same leak, marked at different places of the way from parameter to state."""

    def __init__(self, write, size=(4,)):
        super().__init__((2,))
        self.write = write
        self.decay = models.parameter(*size, seed=5)

    def update(self, x):
        self.h.value = self.write(self) * self.h.value + matmul(x, self.W.value)
        return self.h.value


@pytest.mark.parametrize('size', [(4,), (1,), ()])
@pytest.mark.parametrize(
    'write', [leak, leak_inside, leak_by_hook, leak_broadcast_after, leak_broadcast_before]
)
def test_a_mark_is_moved_to_where_it_meets_the_state(write, size):
    """Wherever it stands, the trace has the shape of the positions and the weight its chain.

    What is repeated along leading axes is a weight that these share.
    """
    model = WithLeak(write, size)
    x = models.random(2, 3)
    executor = compiled(model, x)
    graph = executor.graph
    relation = graph.relation('decay')
    assert relation.x_var is None
    shared, *rest = relation.block_shape
    repeated = {(4,): (2, 4), (1,): (1, 8), (): (8, 1)}[size]
    expected = (1, 8) if write is leak_broadcast_before else repeated
    assert (shared, rest) == (expected[0], [1, 1, expected[1]])
    assert relation.positions[0].reshape(-1).tolist() == list(range(8))
    assert relation.exact
    lin = executor.linearise(x)
    close(lin.f['decay'][0].reshape(2, 4), model.h.value)
    weight = effective_weights(graph, values_of(graph))['decay']
    repeated = jnp.broadcast_to(weight, (shared, 1, rest[-1])).reshape(2, 4)
    close(repeated, jnp.broadcast_to(jax.nn.sigmoid(model.decay.value), (2, 4)))
    assert graph.hidden_groups[0].drive_cuts == ()


def test_a_mark_names_the_line_where_it_stands():
    graph = compiled(WithLeak(leak), models.random(2, 3)).graph
    source = graph.relation('decay').source
    assert source.function == 'leak'
    assert 'element_wise(' in text_at(source)


def test_one_mark_that_meets_data_twice():
    class Twice(WithLeak):
        def update(self, x):
            decay = leak(self)
            self.h.value = decay * self.h.value + (1 - decay) * matmul(x, self.W.value)
            return self.h.value

    model = Twice(None)
    x = models.random(2, 3)
    executor = compiled(model, x)
    lin = executor.linearise(x)
    keys = [r.key for r in executor.graph.hidden_param_op_relations if 'decay' in r.key]
    assert keys == ['decay', 'decay#2']
    drive = x @ model.W.value
    close(sum(abs(lin.f[k][0]) for k in keys).reshape(2, 4), abs(model.h.value) + abs(drive))


def test_a_parameter_written_into_a_state():
    """It meets no data at all: the mark stands where the state is written."""

    class Written(models.Cell):
        def update(self, x):
            old = self.h.value
            self.h.value = jnp.tanh(element_wise(self.b.value))
            return old + x[0]

    executor = compiled(Written())
    assert executor.graph.relation('b').block_shape == (1, 1, 1, 4)
    close(executor.linearise(models.random(3)).f['b'][0].reshape(-1), np.ones(4))


def test_a_product_of_a_constant_and_a_parameter_is_a_bias():
    class ConstantDrive(models.Cell):
        def update(self, x):
            drive = matmul(jnp.arange(3.0), self.W.value)
            self.h.value = 0.5 * self.h.value + drive + x[0]
            return self.h.value

    model = ConstantDrive()
    executor = compiled(model)
    relation = executor.graph.relation('W')
    assert relation.operator.name == 'etp_element_wise'
    weight = effective_weights(executor.graph, values_of(executor.graph))['W']
    close(weight.reshape(-1), jnp.arange(3.0) @ model.W.value)


def test_control_without_moving_the_mark_it_would_mix_the_batch(monkeypatch):
    """Left where it stands, one parameter per unit would reach a position of every sample."""
    import etrace_compiler.canonical as canonical

    monkeypatch.setattr(canonical, 'sink_markers', lambda program, *rest: program)
    graph = compiled(WithLeak(leak), models.random(2, 3)).graph
    assert 'decay' not in [r.key for r in graph.hidden_param_op_relations]


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    ('name', 'exact'),
    [
        ('leaky, batch', {'W': True, 'decay': True}),
        ('LSTM without recurrence, batch', {'W': True, 'b': True}),
        ('Elman, batch', {'W': False, 'R': False, 'b': False}),
        ('layer norm', {'W': False, 'R': False, 'b': False}),
        ('neighbour leak', {'W': False}),
        ('two layers', {'first.W': False, 'second.W': False}),
        ('skip connection', {'first.W': True, 'second.W': True}),
    ],
)
def test_what_a_relation_says_about_exactness(name, exact):
    model, x = models.build(name)
    graph = compile_etrace_graph(model, x)
    assert {k: graph.relation(k).exact for k in exact} == exact


@pytest.mark.parametrize(
    ('name', 'key', 'promise'),
    [
        ('leaky, batch', 'W', 'W drives h: its trace is exact at every length'),
        (
            'Elman, batch', 'W',
            'W drives h: its trace is approximate; '
            'the recurrence through `etp_matmul` is not followed',
        ),
        (
            'two layers', 'first.W',
            'first.W drives first.h: its trace is approximate; the recurrence through '
            '`etp_matmul` is not followed; what it did to other groups in earlier steps is dropped',
        ),
    ],
)  # fmt: skip
def test_a_record_says_what_the_trace_is_worth(name, key, promise):
    model, x = models.build(name)
    graph = compile_etrace_graph(model, x)
    (record,) = graph.explain(weight_path=key, kind='relation_included')
    assert record.message == promise


def test_a_partial_path_is_said_to_be_inexact():
    class PartlyMixed(models.Cell):
        def update(self, x):
            y = matmul(x, self.W.value)
            self.h.value = 0.5 * self.h.value + y - y.sum()
            return self.h.value

    graph = compiled(PartlyMixed()).graph
    assert not graph.relation('W').exact
    assert graph.explain(weight_path='W', kind='relation_partial_path')
    close(graph.relation('W').positions[0].reshape(-1), np.arange(4))


def test_one_operator_that_drives_two_groups():
    class SideBySide(models.Cell):
        def init_state(self):
            self.u, self.v = models.hidden(4), models.hidden(4, seed=51)

        def update(self, x):
            y = matmul(x, self.W.value)
            self.u.value = 0.5 * self.u.value + y
            self.v.value = 0.9 * self.v.value + 3 * y[::-1]
            return self.u.value * self.v.value

    executor = compiled(SideBySide())
    lin = executor.linearise(models.random(3))
    (relation,) = executor.graph.hidden_param_op_relations
    assert [p.reshape(-1).tolist() for p in relation.positions] == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert [f.reshape(-1).tolist() for f in lin.f['W']] == [[1] * 4, [3] * 4]
    close(lin.D_at(relation, 1).reshape(-1), [0.9] * 4)


def test_repr_names_what_is_related():
    graph = compiled(models.Leaky()).graph
    assert repr(graph.relation('W')) == 'HiddenParamOpRelation(W: etp_matmul -> groups [0])'
    assert repr(graph.hidden_groups[0]) == 'HiddenGroup(0: h; varshape=(4,), S=1)'
    assert graph.relation('W').primitive.name == 'etp_matmul'


def test_a_product_with_constants_alone_has_a_record():
    """A marked operator on constants is part of a chain, and its weight is not forgotten."""

    class Constant(models.Cell):
        def update(self, x):
            self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
            return self.h.value + matmul(jnp.ones(4), self.R.value)

    graph = compile_etrace_graph(models.ready(Constant()), models.random(3))
    (record,) = graph.explain(weight_path='R')
    assert record.kind is DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL


def test_a_weight_that_changes_from_substep_to_substep_has_a_record():
    class Changing(models.Cell):
        def update(self, x):
            def body(h, i):
                drive = jnp.sin(matmul(jnp.full(4, i), self.R.value))
                return 0.3 * h + drive, None

            self.h.value = jax.lax.scan(body, self.h.value, jnp.arange(20.0))[0]
            return self.h.value + matmul(x, self.W.value)

    graph = compile_etrace_graph(models.ready(Changing()), models.random(3))
    kinds = [r.kind for r in graph.explain(weight_path='R')]
    assert DiagnosticKind.SCAN_DESCENT_SKIPPED in kinds

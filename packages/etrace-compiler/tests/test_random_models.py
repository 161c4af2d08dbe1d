"""Random wiring of states, operators and tails: the oracles decide."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from etrace_compiler import (
    ETraceVjpGraphExecutor,
    effective_weights,
    element_wise,
    matmul,
    path_key,
)

from . import models
from .oracle import call_model, cut_jacobians, diagonal_of, pure_step, values_of
from .test_patterns import check_zeros

SHAPE = (2, 4)

#: Functions of one value of the shape of the states.
TAILS = {
    'tanh': jnp.tanh,
    'half': lambda a: 0.5 * a,
    'spike': models.spike,
    'roll': lambda a: jnp.roll(a, 1, axis=-1),
    'roll back': lambda a: jnp.roll(a, -1, axis=-1),
    'flip': lambda a: a[:, ::-1],
    'swap halves': lambda a: jnp.concatenate(jnp.split(a, 2, axis=-1)[::-1], axis=-1),
    'centre': lambda a: a - a.mean(axis=-1, keepdims=True),
    'shift': lambda a: jnp.pad(a, ((0, 0), (1, 0)))[:, :-1],
    'first two': lambda a: a.at[:, 2:].set(0.3),
    'softmax': lambda a: jax.nn.softmax(a, axis=-1),
    'sort': lambda a: jnp.sort(a, axis=-1),
    'jit': lambda a: jax.jit(jax.nn.silu)(a),
    'stopped': lambda a: jax.lax.stop_gradient(a) * a,
}

instructions = st.one_of(
    st.tuples(st.just('tail'), st.sampled_from(sorted(TAILS)), st.integers(0, 20)),
    st.tuples(st.just('add'), st.integers(0, 20), st.integers(0, 20)),
    st.tuples(st.just('multiply'), st.integers(0, 20), st.integers(0, 20)),
    st.tuples(st.just('product'), st.integers(0, 20), st.integers(0, 2)),
    st.tuples(st.just('gain'), st.integers(0, 20), st.integers(0, 1)),
    st.tuples(st.just('write'), st.integers(0, 20), st.integers(0, 2)),
    st.tuples(st.just('read'), st.just(0), st.integers(0, 2)),
)
scripts = st.lists(instructions, min_size=3, max_size=12)


class Scripted(brainstate.nn.Module):
    """A step that follows a list of instructions."""

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.W = models.parameter(3, 4, seed=1)
        for i in range(3):
            setattr(self, f'P{i}', models.parameter(4, 4, seed=2 + i))
        for i in range(2):
            setattr(self, f'gain{i}', models.parameter(4, seed=6 + i))

    def init_state(self):
        for i in range(3):
            setattr(self, f'h{i}', models.hidden(*SHAPE, seed=50 + i))

    def update(self, x):
        pool = [matmul(x, self.W.value), self.h0.value]
        for verb, a, b in self.script:
            if verb == 'tail':
                pool.append(TAILS[a](pool[b % len(pool)]))
            elif verb == 'add':
                pool.append(pool[a % len(pool)] + pool[b % len(pool)])
            elif verb == 'multiply':
                pool.append(pool[a % len(pool)] * jnp.tanh(pool[b % len(pool)]))
            elif verb == 'product':
                pool.append(matmul(pool[a % len(pool)], getattr(self, f'P{b}').value))
            elif verb == 'gain':
                gain = jax.nn.sigmoid(element_wise(getattr(self, f'gain{b}').value))
                pool.append(gain * pool[a % len(pool)])
            elif verb == 'write':
                getattr(self, f'h{b}').value = pool[a % len(pool)]
            else:
                pool.append(getattr(self, f'h{b}').value)
        self.h0.value = jnp.tanh(pool[-1]) + 0.5 * pool[1]
        return pool[len(pool) // 2] + pool[-1]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def check_random_model(script):
    model, x = models.ready(Scripted(script)), models.random(2, 3, seed=99)
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x)
    graph, evaluator = executor.graph, executor.evaluator
    info, values = graph.module_info, values_of(graph)
    keys = [path_key(p) for g in graph.hidden_groups for p in g.hidden_paths]
    step = pure_step(model, x)
    zeros = [[jnp.zeros(SHAPE) for _ in g.hidden_paths] for g in graph.hidden_groups]
    params = {s.key: values[s.key] for s in info.by_role('param')}
    old = {k: values[k] for k in keys}

    def loss(out, new):
        terms = [out, *(new[k] for k in keys)]
        return sum(jnp.sum(models.random(*SHAPE, seed=70 + i) * t) for i, t in enumerate(terms))

    @jax.jit
    def everything(values):
        ours = jax.grad(lambda p, q, w: loss(*evaluator((x,), {**values, **w}, p, q)), (0, 1, 2))
        theirs = jax.grad(lambda w, h: loss(*step({**w, **h}, x)), (0, 1))
        weights = effective_weights(graph, values)
        return (
            ours(zeros, zeros, params),
            theirs(params, old),
            executor.lineariser((x,), values)[2],
            weights,
        )

    (signal, beside, ours), (theirs, complete), lin, weights = everything(values)

    # the values are the model's, the one-step gradient is the complete one
    out, after = call_model(model, x)
    again, new = evaluator((x,), values, zeros, zeros)
    np.testing.assert_array_equal(out, again)
    for key, value in new.items():
        np.testing.assert_array_equal(value, after[key])
    jax.tree.map(close, ours, theirs)

    # what is left of the transition is diagonal, and it is D; likewise f
    inputs = info.flatten_inputs((x,), values)
    wanted = [
        (v, g.hidden_outvars, {c.edge for c in g.hidden_cuts})
        for g in graph.hidden_groups
        for v in g.hidden_invars
    ] + [
        (r.y_var, g.hidden_outvars, {c.edge for c in g.drive_cuts})
        for r in graph.hidden_param_op_relations
        for g in r.hidden_groups
    ]
    dense = cut_jacobians(info.program, inputs, wanted)
    for group in graph.hidden_groups:
        dense, columns = dense[group.num_state :], dense[: group.num_state]
        diagonal, beside_it = diagonal_of(group, list(zip(*columns, strict=True)))
        assert beside_it == 0
        close(lin.D[group.index].reshape(diagonal.shape), diagonal)
        if not group.hidden_cuts:
            whole = jnp.einsum('...sr,...s->...r', lin.D[group.index],
                               group.concat_hidden(signal[group.index]))  # fmt: skip
            whole = whole + group.concat_hidden(beside[group.index])
            expected = [complete[path_key(p)] for p in group.hidden_paths]
            close(whole, group.concat_hidden(expected))
    for relation in graph.hidden_param_op_relations:
        assert weights[relation.key].shape == relation.block_shape[1:]
        size = int(np.prod(relation.y_var.shape))
        order = np.asarray(relation.y_block(np.arange(size).reshape(relation.y_var.shape)))
        for driven, group in enumerate(relation.hidden_groups):
            columns = jnp.stack([c.reshape(8, size) for c in dense.pop(0)], axis=-1)
            at = relation.positions[driven].reshape(-1)
            f = lin.f[relation.key][driven]
            f = jnp.stack([relation.place(driven, f[..., s]) for s in range(group.num_state)], -1)
            f = f.reshape(size, group.num_state)
            expected = np.zeros((8, size, group.num_state))
            for element, position, value in zip(order.reshape(-1), at, f, strict=True):
                if position >= 0:
                    expected[position, element] = value
                else:
                    close(value, 0)
            close(columns, expected)

    check_zeros(graph, lin)
    check_exactness(graph, inputs)

    # nobody is without a record
    for path in info.parameter_paths:
        assert graph.explain(weight_path=path), path


def check_exactness(graph, inputs):
    """An operator that is said to be exact acts on its groups alone, and they on themselves."""
    exact = [r for r in graph.hidden_param_op_relations if r.exact]
    states = [(g, v) for g in graph.hidden_groups for v in g.hidden_outvars]
    new = [v for _, v in states]
    wanted = []
    for relation in exact:
        cut = {c.edge for g in relation.hidden_groups for c in g.drive_cuts}
        wanted += [(relation.y_var, new, cut), (relation.y_var, new, set())]
        wanted += [(v, new, set()) for g in relation.hidden_groups for v in g.hidden_invars]
    dense = cut_jacobians(graph.module_info.program, inputs, wanted)
    for relation in exact:
        followed, complete = dense.pop(0), dense.pop(0)
        for (group, _), a, b in zip(states, followed, complete, strict=True):
            close(a, b)
            assert group in relation.hidden_groups or not np.any(b)
        for home in relation.hidden_groups:
            for _ in home.hidden_invars:
                for (group, _), jac in zip(states, dense.pop(0), strict=True):
                    matrix = jac.reshape(8, 8)
                    beside = matrix - jnp.diag(jnp.diagonal(matrix))
                    assert not np.any(beside if group is home else matrix)


@given(scripts)
@settings(max_examples=8 * settings.default.max_examples // 100)
def test_random_model(script):
    check_random_model(script)

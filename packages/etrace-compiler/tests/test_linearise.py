"""`D`, `f` and the full one-step maps against dense Jacobians."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etrace_compiler import (
    ETraceVjpGraphExecutor,
    Linearisation,
    effective_weights,
    gather_positions,
    path_key,
)
from etrace_compiler.interpret import Interpreter

from . import models
from .oracle import (
    call_model,
    cut_jacobians,
    dense_jacobian,
    diagonal_of,
    hidden_values,
    pure_step,
    values_of,
)

close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def compiled(model, *args):
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(*args)
    linearise = jax.jit(lambda values: executor.lineariser(args, values)[2])
    return executor, executor.graph, linearise(values_of(executor.graph))


@functools.cache
def dense_example(name):
    """The dense Jacobian of a model of the list."""
    model, x = models.build(name)
    return dense_jacobian(model, x)


@functools.cache
def example(name):
    """A model of the list, its input, and what was compiled; not changed by any test."""
    model, x = models.build(name)
    return model, x, *compiled(model, x)


def keys(group):
    return [path_key(path) for path in group.hidden_paths]


@pytest.mark.parametrize('name', models.POSITION_DIAGONAL)
def test_d_is_the_complete_jacobian_where_positions_do_not_mix(name):
    _, _, _, graph, lin = example(name)
    dense = dense_example(name)
    for group in graph.hidden_groups:
        assert group.hidden_cuts == ()
        tensors = [[dense[new][old] for old in keys(group)] for new in keys(group)]
        diagonal, beside = diagonal_of(group, tensors)
        assert beside == 0
        close(lin.D[group.index].reshape(diagonal.shape), diagonal)


@pytest.mark.parametrize('name', models.EVERY)
def test_d_is_all_that_the_cuts_leave(name):
    """With the cut operands stopped, the dense Jacobian is diagonal, and it is `D`."""
    _, x, _, graph, lin = example(name)
    info = graph.module_info
    inputs = info.flatten_inputs((x,), values_of(graph))
    columns = cut_jacobians(
        info.program,
        inputs,
        [
            (old, group.hidden_outvars, {c.edge for c in group.hidden_cuts})
            for group in graph.hidden_groups
            for old in group.hidden_invars
        ],
    )
    for group in graph.hidden_groups:
        columns, found = columns[len(group.hidden_invars) :], columns[: len(group.hidden_invars)]
        diagonal, beside = diagonal_of(group, list(zip(*found, strict=True)))
        assert beside == 0, 'something that mixes positions was not cut'
        close(lin.D[group.index].reshape(diagonal.shape), diagonal)


@pytest.mark.parametrize('name', models.EVERY)
def test_f_is_all_that_the_cuts_leave_at_the_positions_given(name):
    """`f` is the whole derivative with respect to an operator's result, nothing lies elsewhere."""
    _, x, _, graph, lin = example(name)
    info = graph.module_info
    inputs = info.flatten_inputs((x,), values_of(graph))
    dense = cut_jacobians(
        info.program,
        inputs,
        [
            (relation.y_var, group.hidden_outvars, {c.edge for c in group.drive_cuts})
            for relation in graph.hidden_param_op_relations
            for group in relation.hidden_groups
        ],
    )
    for relation in graph.hidden_param_op_relations:
        for d, group in enumerate(relation.hidden_groups):
            columns = dense.pop(0)
            block = lin.f[relation.key][d]
            block = jnp.stack(
                [relation.place(d, block[..., s]) for s in range(group.num_state)], -1
            )
            at = relation.positions[d]
            assert block.shape == (*at.shape, group.num_state)
            size = int(np.prod(relation.y_var.shape))
            elements = np.arange(size).reshape(relation.y_var.shape)
            elements = np.asarray(relation.y_block(elements)).reshape(-1)
            expected = [c.reshape(group.positions, -1, size) for c in columns]
            expected = jnp.concatenate(expected, axis=1)
            got = np.zeros_like(expected)
            values = np.asarray(block.reshape(size, group.num_state))
            for element, position, value in zip(elements, at.reshape(-1), values, strict=True):
                if position >= 0:
                    got[position, :, element] = value
                else:
                    close(value, 0)
            close(got, expected)


@pytest.mark.parametrize('name', ['Elman, batch', 'GRU, batch', 'LSTM, batch', 'spiking, recurrent',
                                  'rolled tail', 'layer norm', 'two layers'])  # fmt: skip
def test_d_equals_the_model_with_its_recurrent_operands_stopped(name, monkeypatch):
    """Independent of the equations: the model itself, its products reading a stopped state."""
    model, x, _, graph, lin = example(name)

    def stopped(h, w, b=None, **options):
        y = jax.lax.stop_gradient(h) @ w
        return y if b is None else y + b

    monkeypatch.setattr(models, 'matmul', stopped)
    old = hidden_values(model)
    step = pure_step(model, x)
    dense = jax.jit(jax.jacrev(lambda h: {k: step(h, x)[1][k] for k in old}))(old)
    for group in graph.hidden_groups:
        tensors = [[dense[new][o] for o in keys(group)] for new in keys(group)]
        diagonal, beside = diagonal_of(group, tensors)
        assert beside == 0
        close(lin.D[group.index].reshape(diagonal.shape), diagonal)


def test_d_of_a_neighbour_leak_is_the_leak_alone():
    model, x = models.build('neighbour leak')
    _, graph, lin = compiled(model, x)
    close(lin.D[0], np.full((2, 4, 1, 1), 0.8))
    assert len(graph.hidden_groups[0].hidden_cuts) == 1


def test_d_of_a_mean_field_has_no_part_of_the_mean():
    model, x = models.build('mean field')
    _, graph, lin = compiled(model, x)
    close(lin.D[0], np.full((2, 4, 1, 1), 0.8))
    (cut,) = graph.hidden_groups[0].hidden_cuts
    eqn = graph.module_info.program.equations[cut.equation]
    assert eqn.inputs[cut.operand].shape == (2, 1)  # the mean, where it is handed to every unit


def test_f_of_a_layer_norm_keeps_the_way_around_its_reductions():
    """The mean and the variance are constants; what is left is the reciprocal deviation."""
    model, x = models.build('layer norm')
    _, graph, lin = compiled(model, x)
    group = graph.hidden_groups[0]
    equations = graph.module_info.program.equations
    for cut in group.drive_cuts:  # the mean and the deviation, where they meet every unit
        assert equations[cut.equation].inputs[cut.operand].shape == (2, 1)
    h = model.h.value
    y = x @ model.W.value + h @ model.R.value + model.b.value
    scale = jax.lax.rsqrt(y.var(axis=-1, keepdims=True) + 0.1)
    relation = graph.relation('W')
    expected = jnp.broadcast_to(scale, y.shape)[:, None, :, None]
    close(lin.f['W'][0], expected.reshape(lin.f['W'][0].shape))
    assert relation.block_shape == (2, 1, 3, 4)


@pytest.mark.parametrize(
    ('name', 'order'),
    [
        ('rolled tail', [1, 2, 3, 0]),
        ('flipped tail', [3, 2, 1, 0]),
        # y[2], y[0], y[3], y[1] go to the positions 0, 1, 2, 3
        ('permuted tail', [1, 3, 0, 2]),
        ('interleaved gates', [0, 0, 1, 1, 2, 2, 3, 3]),
        ('LSTM, batch', [0, 1, 2, 3] * 4),
    ],
)
def test_positions_say_where_results_go(name, order):
    model, x = models.build(name)
    graph = compiled(model, x)[1]
    (positions,) = graph.relation('W').positions
    assert positions.shape == (2, 1, len(order))
    for sample in range(2):
        assert positions[sample, 0].tolist() == [sample * 4 + p for p in order]


def test_an_operator_read_in_part_has_drives_for_that_part():
    class FirstHalf(models.Cell):
        def __init__(self):
            super().__init__(width=2)

        def update(self, x):
            y = models.matmul(x, self.W.value)
            self.h.value = 0.5 * self.h.value + y[: models.N]
            return y[models.N :]

    model = models.ready(FirstHalf())
    _, graph, lin = compiled(model, models.random(3))
    assert graph.relation('W').positions[0].tolist() == [[[0, 1, 2, 3, -1, -1, -1, -1]]]
    assert graph.relation('W').columns[0].tolist() == [0, 1, 2, 3]
    close(lin.f['W'][0][0, 0, :, 0], [1, 1, 1, 1])
    close(lin.D_at(graph.relation('W'), 0)[0, 0, :, 0, 0], [0.5] * 4)


@pytest.mark.parametrize('columns', [[0, 1, 2, 3], [1, 2], [3], [0, 2, 3]])
def test_columns_are_taken_and_put_back(columns):
    _, graph, _ = compiled(*models.build('leaky'))
    relation = graph.hidden_param_op_relations[0]
    positions = np.full((2, 1, 4), -1)
    positions[1, 0, columns] = np.arange(len(columns))
    relation = replace(relation, positions=(positions,))
    block = models.random(2, 1, 4, 3, seed=5)
    taken = relation.take(0, block)
    close(taken, block[:, :, np.array(columns)])
    back = np.zeros((2, 1, 4))
    back[:, :, columns] = taken[..., 0]
    close(relation.place(0, taken[..., 0]), back)


def test_gather_positions_leaves_no_number_where_there_is_no_position():
    model, x = models.build('stacked states')
    _, graph, lin = compiled(model, x)
    group = graph.hidden_groups[0]
    relation = replace(
        graph.hidden_param_op_relations[0],
        hidden_groups=(group,),
        positions=(np.array([[[3, -1, 0]], [[3, 2, 1]]]),),
    )
    found = gather_positions(lin.D[0], relation, 0)
    close(found[0, 0, 0], lin.D[0][3])
    close(found[0, 0, 1], np.zeros((2, 2)))
    close(found[0, 0, 2], lin.D[0][0])


#: One model of each kind, for what costs a compilation each.
SOME = ['leaky, batch', 'spiking chain', 'delay line', 'never written', 'stacked and plain',
        'tree states', 'GRU, batch', 'layer norm', 'two shapes', 'collections']  # fmt: skip


@pytest.mark.parametrize('name', SOME)
def test_full_maps_are_the_dense_jacobian(name):
    _, _, _, graph, lin = example(name)
    dense = dense_example(name)
    rows = []
    for g in graph.hidden_groups:
        for new, new_key in zip(g.hidden_states, keys(g), strict=True):
            row = []
            for other in graph.hidden_groups:
                for old, old_key in zip(other.hidden_states, keys(other), strict=True):
                    size = (g.positions * new.num_state, other.positions * old.num_state)
                    row.append(dense[new_key][old_key].reshape(size))
            rows.append(jnp.concatenate(row, axis=1))
    matrix = jnp.concatenate(rows, axis=0)

    def flat(stacked):
        """Lay per-group arrays out in the order of the matrix: state by state."""
        parts = []
        for g, value in zip(graph.hidden_groups, stacked, strict=True):
            parts.extend(p.reshape(-1) for p in g.split_hidden(value))
        return jnp.concatenate(parts)

    rng = np.random.RandomState(0)
    v = tuple(jnp.asarray(rng.randn(*g.varshape, g.num_state)) for g in graph.hidden_groups)
    forward, backward = jax.jit(lambda v: (lin.jvp_h(v), lin.vjp_h(v)))(v)
    close(flat(forward), matrix @ flat(v))
    close(flat(backward), flat(v) @ matrix)


@pytest.mark.parametrize('name', SOME)
def test_a_step_pulled_back_reaches_every_parameter_and_state(name):
    """Also those of operations that are not marked, and ways that mix positions."""
    model, x, _, graph, lin = example(name)
    info, step = graph.module_info, pure_step(model, x)
    rng = np.random.RandomState(1)
    cotangents = tuple(
        jnp.asarray(rng.randn(*g.varshape, g.num_state)) for g in graph.hidden_groups
    )
    parts = {
        key: part
        for g, c in zip(graph.hidden_groups, cotangents, strict=True)
        for key, part in zip(keys(g), g.split_hidden(c), strict=True)
    }

    def weighed(values):
        new = step(values, x)[1]
        return sum(jnp.vdot(part, new[key]) for key, part in parts.items())

    wanted = {s.key for s in (*info.by_role('param'), *info.by_role('hidden'))}
    expected = jax.jit(jax.grad(weighed))(
        {k: v for k, v in values_of(graph).items() if k in wanted}
    )
    hidden, params, results = jax.jit(lin.vjp_step)(cotangents)
    for g, stacked in zip(graph.hidden_groups, hidden, strict=True):
        for key, part in zip(keys(g), g.split_hidden(stacked), strict=True):
            close(part, expected[key])
    assert params.keys() | set(hidden_values(model)) >= wanted
    for key, found in params.items():
        jax.tree.map(close, found, expected[key])
    for r in graph.hidden_param_op_relations:
        assert results[r.key].shape == (r.block_shape[0], r.block_shape[1], r.block_shape[3])


def test_results_pulled_back_give_the_gradient_of_a_weight():
    """A weight that acts through its operation alone: the product of input and cotangent."""
    _, _, _, graph, lin = example('GRU, batch')
    rng = np.random.RandomState(1)
    groups = graph.hidden_groups
    cotangents = tuple(jnp.asarray(rng.randn(*g.varshape, g.num_state)) for g in groups)
    _, params, results = lin.vjp_step(cotangents)
    old = {s.key: lin.states[s.key] for s in graph.module_info.by_role('param')}
    _, pull = jax.vjp(lambda p: effective_weights(graph, p), old)
    weights = {key: jnp.einsum('ghi,gho->hio', lin.x[key], results[key]) for key in results}
    found = pull(weights)[0]
    traced = {path_key(p) for r in graph.hidden_param_op_relations for p in r.trainable_paths}
    assert traced < old.keys()  # a gate that acts through the recurrent product alone has none
    for key in traced:
        jax.tree.map(close, found[key], params[key])


def test_full_maps_of_a_model_with_a_custom_vjp():
    """A function without a forward-mode derivative does not stop `jvp_h`."""

    @jax.custom_vjp
    def surrogate(v):
        return (v > 0).astype(v.dtype)

    surrogate.defvjp(lambda v: (surrogate(v), v), lambda v, g: (g / (1 + v**2),))

    class Spiking(models.Cell):
        def update(self, x):
            z = surrogate(self.h.value)
            drive = models.matmul(x, self.W.value) + models.matmul(z, self.R.value)
            self.h.value = 0.7 * self.h.value * (1 - z) + drive
            return z

    model = models.ready(Spiking())
    _, _, lin = compiled(model, models.random(3))
    dense = dense_jacobian(model, models.random(3))['h']['h']
    v = models.random(4)
    close(lin.jvp_h((v[:, None],))[0][:, 0], dense @ v)
    close(lin.vjp_h((v[:, None],))[0][:, 0], v @ dense)
    recurrent = model.R.value * (1 / (1 + model.h.value**2))[:, None]
    close(lin.D[0][:, 0, 0], jnp.diag(dense - recurrent.T))


@pytest.mark.parametrize('name', SOME)
def test_output_and_states_are_those_of_the_model(name):
    model, x, executor, _, _ = example(name)
    values = values_of(executor.graph)
    out, new, _ = executor.lineariser((x,), values)
    expected, after = call_model(model, x)
    np.testing.assert_array_equal(out, expected)
    for key, value in new.items():
        jax.tree.map(np.testing.assert_array_equal, value, after[key])


def test_linearisation_is_a_pytree_and_works_under_jit_and_vmap():
    model, x = models.build('delay line')
    executor, graph, lin = compiled(model, x)
    assert isinstance(jax.tree.map(lambda a: a, lin), Linearisation)
    values = values_of(graph)
    jitted = jax.jit(lambda x: executor.lineariser((x,), values)[2])(x)
    jax.tree.map(close, jitted, lin)
    xs = jnp.stack([x, 2 * x])
    mapped = jax.vmap(lambda x: executor.lineariser((x,), values)[2])(xs)
    second = executor.lineariser((2 * x,), values)[2]
    jax.tree.map(lambda a, b: close(a[1], b), (mapped.f, mapped.D), (second.f, second.D))


def test_batched_graph_is_the_map_of_the_unbatched_one():
    single = models.ready(models.LSTM())
    batched = models.ready(models.LSTM((2,)))
    x = models.random(2, 3)
    lin = compiled(batched, x)[2]
    for i in range(2):
        single.h.value, single.c.value = batched.h.value[i], batched.c.value[i]
        one = compiled(single, x[i])[2]
        close(lin.D[0][i], one.D[0])
        for key in ('W', 'R', 'b'):
            close(lin.f[key][0][i], one.f[key][0][0])


def test_control_without_cuts_d_is_wrong():
    """The claim of this file fails when the cuts are switched off."""
    model, x = models.build('Elman, batch')
    executor, graph, lin = compiled(model, x)
    transition = executor.lineariser._transitions[0]
    transition._hidden_cut = set()
    transition._from_hidden = set(graph.module_info.program.downstream(transition._old))
    transition._interpreter = Interpreter(transition._program, transition._wanted, transition)
    wrong = executor.linearise(x).D[0]
    assert np.abs(wrong - lin.D[0]).max() > 1e-3

"""Operators: the block law, JAX's transformations, units, errors, and operators of others."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrace_compiler import (
    ETraceVjpGraphExecutor,
    check_operator,
    compile_etrace_graph,
    element_wise,
    matmul,
    operator_named,
    operators,
    register_primitive,
)
from etrace_compiler.ops import Likeness, element_wise_op, matmul_op, operator_of

from . import models

sides = st.integers(1, 4)

MATRIX = 'ai,io->ao'


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- the block law


@given(st.lists(sides, max_size=3).map(tuple), st.lists(sides, max_size=2).map(tuple))
@settings(max_examples=5)
def test_element_wise_is_a_block_matmul(shape, shared):
    check_operator(element_wise_op, models.random(*shape), shared=shared)
    block = element_wise_op.w_block(jnp.ones(shape), shared=shared)
    assert block.shape == (1, 1, int(np.prod(shape)))


@pytest.mark.parametrize('shared', [(), (5,), (5, 2)])
def test_vmap_of_element_wise_over_its_weight(shared):
    weights = models.random(3, 4)
    mapped = jax.vmap(lambda w: element_wise_op.primitive.bind(w, shared=shared))(weights)
    close(mapped, jnp.stack([jnp.broadcast_to(w, (*shared, 4)) for w in weights]))


def test_blocks_of_labels_are_those_of_values():
    """`y_block` also carries integer labels, in NumPy."""
    labels = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    block = matmul_op.y_block(labels, (2, 4, 5), equation=MATRIX, mapped=('xw',))
    assert isinstance(block, np.ndarray)
    assert block.shape == (3, 2, 5)
    close(block[1, 0], labels[0, 1])


def wrong_facts(**changes):
    facts = {'x_block': matmul_op.x_block, 'w_block': matmul_op.w_block,
             'y_block': matmul_op.y_block, **changes}  # fmt: skip
    return type(matmul_op)('wrong', matmul_op.forward, **facts, has_input=True, primitive=None)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'w_block': lambda w, **p: matmul_op.w_block(2 * w, **p)}, 'Mismatched'),
        ({'w_block': lambda w, **p: matmul_op.w_block(w, **p)[:, ::-1]}, 'Mismatched'),
        ({'y_block': lambda y, s, **p: matmul_op.y_block(y[..., ::-1], s, **p)}, 'Mismatched'),
        ({'y_block': lambda y, s, **p: matmul_op.y_block(y, s, **p)[:1]}, 'X W is'),
        ({'x_block': lambda x, s, **p: x}, 'wrong.x_block has rank 2, not 3'),
        ({'y_block': lambda y, s, **p: y.reshape(-1)}, 'wrong.y_block has rank 1, not 3'),
        ({'like': lambda *s, **p: Likeness('dot_general', {}, s[0])}, 'wrong.like has shape'),
    ],
)
def test_control_a_wrong_fact_is_caught(changes, text):
    x, w = models.random(2, 3), models.random(3, 4, seed=1)
    check_operator(wrong_facts(), x, w, equation=MATRIX)
    with pytest.raises(AssertionError, match=text):
        check_operator(wrong_facts(**changes), x, w, equation=MATRIX)


# ---------------------------------------------------------------- transformations


def plain(x, w):
    return x @ w


X, W = (4, 3), (3, 2)


@pytest.mark.parametrize('shape', [(3,), (4, 3), (2, 4, 3), (0, 3)])
def test_matmul_value_for_any_number_of_leading_axes(shape):
    x, w = models.random(*shape), models.random(3, 2, seed=1)
    close(matmul(x, w), x @ w)
    assert matmul(x, w).shape == (*shape[:-1], 2)


def test_matmul_derivatives():
    x, w, b = models.random(4, 3), models.random(3, 2, seed=1), models.random(2, seed=2)
    t = (models.random(4, 3, seed=3), models.random(3, 2, seed=4), models.random(2, seed=5))

    def expected(x, w, b):
        return x @ w + b

    for got, want in zip(jax.jvp(matmul, (x, w, b), t), jax.jvp(expected, (x, w, b), t),
                         strict=True):  # fmt: skip
        close(got, want)
    c = models.random(4, 2, seed=6)
    jax.tree.map(close, jax.vjp(matmul, x, w, b)[1](c), jax.vjp(expected, x, w, b)[1](c))
    loss, same = (lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w, b))) for f in (matmul, expected))
    hessians = (jax.jit(jax.hessian(f, (0, 1)))(x, w) for f in (loss, same))
    jax.tree.map(close, *hessians)
    gradients = (jax.jit(jax.grad(f, (0, 1)))(x, w) for f in (loss, same))
    jax.tree.map(close, *gradients)


@pytest.mark.parametrize('out_axis', [0, 1, -1])
@pytest.mark.parametrize('axes', [(0, None), (1, None), (None, 0), (None, 2), (0, 0), (1, 2)])
@pytest.mark.parametrize('lead', [(), (4,), (2, 4)])
def test_matmul_under_vmap(axes, out_axis, lead):
    x_axis, w_axis = axes
    x, w = models.random(*lead, 3), models.random(3, 2, seed=1)
    if x_axis is not None:
        x = jnp.moveaxis(models.random(5, *x.shape), 0, min(x_axis, x.ndim))
        x_axis = min(axes[0], x.ndim - 1)
    if w_axis is not None:
        w = jnp.moveaxis(models.random(5, 3, 2, seed=2), 0, w_axis)

    def mapped(f):
        return jax.vmap(f, in_axes=(x_axis, w_axis), out_axes=out_axis)

    close(mapped(matmul)(x, w), mapped(plain)(x, w))


@pytest.mark.parametrize('inner', [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize('outer', [(0, None), (None, 0), (0, 0)])
def test_matmul_under_nested_vmap(inner, outer):
    """Each map is noted, by what has an axis of its own for it."""
    x_lead = tuple(n for n, axes in ((2, outer), (5, inner)) if axes[0] is not None)
    w_lead = tuple(n for n, axes in ((2, outer), (5, inner)) if axes[1] is not None)
    x, w = models.random(*x_lead, *X), models.random(*w_lead, *W, seed=1)

    def mapped(f):
        return jax.vmap(jax.vmap(f, in_axes=inner), in_axes=outer)

    close(mapped(matmul)(x, w), mapped(plain)(x, w))
    grads = (jax.grad(lambda x, w, f=f: jnp.sum(jnp.cos(mapped(f)(x, w))), (0, 1))(x, w)
             for f in (matmul, plain))  # fmt: skip
    jax.tree.map(close, *grads)
    jaxpr = jax.make_jaxpr(mapped(matmul))(x, w)
    (eqn,) = [e for e in jaxpr.eqns if e.primitive.name == 'etp_matmul']
    kinds = {(0, None): 'x', (None, 0): 'w', (0, 0): 'xw'}
    # the innermost map is lifted first
    assert eqn.params['mapped'] == (kinds[outer], kinds[inner])
    check_operator(matmul_op, x, w, **eqn.params)


def test_derivative_of_a_map_and_map_of_a_derivative():
    x, w = models.random(5, 4, 3), models.random(3, 2, seed=1)

    def per_sample(f):
        return jax.vmap(jax.grad(lambda x, w: jnp.sum(jnp.tanh(f(x, w))), 1), (0, None))

    close(per_sample(matmul)(x, w), per_sample(plain)(x, w))


def test_element_wise_is_the_identity():
    w = models.random(3, 2)
    close(element_wise(w), w)
    close(jax.vmap(element_wise, in_axes=1, out_axes=1)(w), w)
    close(jax.grad(lambda w: jnp.sum(jnp.sin(element_wise(w))))(w), jnp.cos(w))
    close(jax.jvp(element_wise, (w,), (2 * w,))[1], 2 * w)
    close(element_wise(w, weight_fn=jnp.exp), jnp.exp(w))


def test_derivative_with_respect_to_one_argument_alone():
    x, w = models.random(4, 3), models.random(3, 2, seed=1)
    close(jax.jacfwd(lambda w: matmul(x, w))(w), jax.jacfwd(lambda w: x @ w)(w))
    close(jax.jacfwd(lambda x: matmul(x, w))(x), jax.jacfwd(lambda x: x @ w)(x))


def test_hooks_transform_weight_and_bias():
    x, w, b = models.random(4, 3), models.random(3, 2, seed=1), models.random(2, seed=2)
    close(matmul(x, w, b, weight_fn=jnp.abs, bias_fn=jnp.exp), x @ jnp.abs(w) + jnp.exp(b))


# ---------------------------------------------------------------- dtypes and units


@pytest.mark.parametrize(
    ('x', 'w', 'y'),
    [
        ('float32', 'float32', 'float32'),
        ('float32', 'float64', 'float64'),
        ('float16', 'float32', 'float32'),
        ('bfloat16', 'bfloat16', 'bfloat16'),
        ('int32', 'float32', 'float32'),
        ('bool', 'float64', 'float64'),
        ('float64', 'complex128', 'complex128'),
    ],
)
def test_matmul_promotes_as_jax_does(x, w, y):
    a, b = jnp.ones((4, 3)).astype(x), jnp.ones((3, 2)).astype(w)
    assert matmul(a, b).dtype == y == jnp.promote_types(x, w)
    close(np.asarray(matmul(a, b), complex), 3)


def test_units_are_multiplied():
    x, w, b = models.random(4, 3) * u.mV, models.random(3, 2) * u.mS, models.random(2) * u.uA
    y = matmul(x, w)
    assert u.have_same_dim(y, b)
    close(y.to_decimal(u.uA), x.to_decimal(u.mV) @ w.to_decimal(u.mS))
    close(matmul(x, w, b).to_decimal(u.uA), y.to_decimal(u.uA) + b.to_decimal(u.uA))
    # a bias in another scale of the same unit
    close(matmul(x, w, b.in_unit(u.nA)).to_decimal(u.uA), matmul(x, w, b).to_decimal(u.uA))


def test_units_cancel_to_a_plain_array():
    y = matmul(jnp.ones((4, 3)) * u.ms, jnp.ones((3, 2)) / u.ms)
    assert not isinstance(y, u.Quantity)
    close(y, 3)


def test_gradient_has_the_unit_of_the_weight_inverted():
    x, w = models.random(4, 3) * u.mV, models.random(3, 2) * u.mS
    gradient = u.autograd.grad(lambda w: matmul(x, w).to_decimal(u.uA).sum())(w)
    close(u.get_mantissa(gradient), jnp.broadcast_to(x.mantissa.sum(0)[:, None], (3, 2)))


def test_element_wise_keeps_the_unit():
    tau = element_wise(models.random(3) * u.ms)
    assert tau.unit == u.ms


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(('x', 'w'), [((4, 3), (2, 3)), ((3,), (3,)), ((), (3, 2)),
                                      ((4, 3), (1, 3, 2))])  # fmt: skip
def test_shapes_that_do_not_fit(x, w):
    with pytest.raises(ValueError, match=r'`matmul` cannot multiply these shapes: got x \(') as e:
        matmul(jnp.ones(x), jnp.ones(w))
    assert f'got x {x} and weight {w}; expected x (..., in) and weight (in, out)' in str(e.value)
    assert '[ETC802]' in str(e.value)


def test_bias_of_another_unit():
    with pytest.raises(ValueError, match=r'`matmul bias` has the wrong unit: .*\[ETC803\]'):
        matmul(jnp.ones((4, 3)) * u.mV, jnp.ones((3, 2)), jnp.ones(2) * u.ms)


def test_name_that_is_taken():
    with pytest.raises(ValueError, match=r'`etp_matmul` is already the name .*\[ETC801\]'):
        register_primitive('etp_matmul', plain, x_block=None, w_block=None, y_block=None,
                           batching=None)  # fmt: skip
    assert operator_named('etp_matmul') is matmul_op


def test_name_that_is_unknown():
    with pytest.raises(KeyError, match=r"no operator is named 'etp_fft'; registered: .*etp_matmul"):
        operator_named('etp_fft')


def test_table_of_operators():
    assert {matmul_op, element_wise_op} <= set(operators())
    assert operator_of(matmul_op.primitive) is matmul_op
    assert operator_of(jax.lax.add_p) is None


# ---------------------------------------------------------------- somebody else's operator


def circulant_matrix(w):
    n = w.shape[0]
    return w[(jnp.arange(n)[None, :] - jnp.arange(n)[:, None]) % n]


def last_as_heads(value):
    return value.reshape(-1, value.shape[-1], 1)


def registered(name, *args, **facts):
    """Register once, however often this file is imported."""
    known = {operator.name: operator for operator in operators()}
    return known.get(name) or register_primitive(name, *args, **facts)


#: A gain per unit, `y = x * w`: every unit is a block of its own.
scale = registered(
    'test_scale',
    lambda x, w: x * w,
    x_block=lambda x, shape: last_as_heads(x),
    w_block=lambda w: w.reshape(-1, 1, 1),
    y_block=lambda y, shape: last_as_heads(y),
)

#: A circular convolution; its block is the full matrix, so that the weight is read as one.
circulant = registered(
    'test_circulant',
    lambda x, w: x @ circulant_matrix(w),
    x_block=lambda x, shape: x.reshape(-1, 1, x.shape[-1]),
    w_block=lambda w: circulant_matrix(w)[None],
    y_block=lambda y, shape: y.reshape(-1, 1, y.shape[-1]),
)


@given(st.lists(sides, max_size=2).map(tuple), sides)
@settings(max_examples=5)
def test_third_party_operators_obey_the_law(lead, n):
    x, w = models.random(*lead, n), models.random(n, seed=1)
    check_operator(scale, x, w)
    check_operator(circulant, x, w)


class Gained(models.Cell):
    """Both operators of this file, in a cell."""

    def __init__(self):
        super().__init__((2,))
        self.gain, self.kernel = models.parameter(models.N, seed=6), models.parameter(4, seed=7)

    def update(self, x):
        h = self.h.value
        drive = matmul(x, self.W.value) + circulant.primitive.bind(h, self.kernel.value)
        self.h.value = jnp.tanh(scale.primitive.bind(h, self.gain.value) + drive)
        return self.h.value


def test_third_party_operators_in_a_model():
    """A gain is not cut, a circular convolution is; both are relations with the right facts."""
    model = models.ready(Gained())
    x = models.random(2, 3)
    executor = ETraceVjpGraphExecutor(model)
    executor.compile_graph(x)
    graph, lin = executor.graph, executor.linearise(x)
    assert {c.primitive for c in graph.hidden_groups[0].hidden_cuts} == {'test_circulant'}
    slope = 1 - model(x) ** 2
    executor = ETraceVjpGraphExecutor(model)
    close(lin.D[0][..., 0, 0], slope * model.gain.value)
    assert graph.relation('gain').block_shape == (2, 4, 1, 1)
    assert graph.relation('kernel').block_shape == (2, 1, 4, 4)
    close(lin.x['gain'][..., 0], lin.hidden[0][..., 0])
    close(lin.x['kernel'][:, 0], lin.hidden[0][..., 0])
    for key in ('gain', 'kernel'):
        close(lin.f[key][0].reshape(2, 4), slope)


def test_operator_of_a_model_that_is_mapped():
    """A cell written for one sample and mapped has the blocks of the batched one."""

    class Mapped(models.Cell):
        def __init__(self):
            super().__init__((2,))

        def update(self, x):
            y = jax.vmap(matmul, (0, None))(x, self.W.value)
            self.h.value = 0.5 * self.h.value + y
            return self.h.value

    graph = compile_etrace_graph(models.ready(Mapped()), models.random(2, 3))
    assert graph.relation('W').block_shape == (2, 1, 3, 4)
    assert graph.relation('W').exact


def test_a_weight_per_neuron_is_a_head():
    """Mapped over the weight too: small networks side by side, one block each."""

    class SideBySide(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = models.parameter(2, 3, 4)

        def init_state(self, *args, **kwargs):
            self.h = models.hidden(2, 5, 4)

        def update(self, x):
            y = jax.vmap(matmul)(x, self.W.value)
            self.h.value = 0.5 * self.h.value + y
            return self.h.value

    x = models.random(2, 5, 3)
    executor = ETraceVjpGraphExecutor(models.ready(SideBySide()))
    executor.compile_graph(x)
    relation = executor.graph.relation('W')
    assert relation.block_shape == (5, 2, 3, 4)
    assert relation.positions[0][1, 0].tolist() == [4, 5, 6, 7]
    close(executor.linearise(x).x['W'], jnp.moveaxis(x, 0, 1))

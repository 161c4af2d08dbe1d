"""Every labelling rule against a brute-force oracle: which Jacobian entries are not zero."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrace_compiler import einsum, element_wise, grouped_matmul, labels, matmul
from etrace_compiler.canonical.constants import fold_constants
from etrace_compiler.flatten import program_of
from etrace_compiler.interpret import run
from etrace_compiler.labels import NONE, SEVERAL, backward_labels, forward_labels, is_known
from etrace_compiler.ops import element_wise_op
from etrace_compiler.program import Var, apply_equation, is_differentiable

rng = np.random.RandomState(0)


def program(function, *shapes):
    return fold_constants(program_of(function, *(jax.ShapeDtypeStruct(s, float) for s in shapes)))


def dependencies(eqn, values, exact):
    """Per operand and result: a matrix, which element of the result moves with which element."""
    smooth = [j for j, v in enumerate(eqn.outputs) if is_differentiable(v)]
    followed = [k for k, v in enumerate(eqn.inputs) if isinstance(v, Var) and is_differentiable(v)]
    # where values depend just as derivatives do, trying is faster than differentiating
    table_of = by_trying if exact and not eqn.name.startswith('custom') else by_differentiating
    return table_of(eqn, values, followed, smooth) if smooth and followed else {}


def by_trying(eqn, values, followed, smooth):
    before = [np.asarray(v) for v in apply_equation(eqn, values)]
    table = {(k, j): np.zeros((before[j].size, values[k].size), bool)
             for k in followed for j in smooth}  # fmt: skip
    for k in followed:
        for element in range(values[k].size):
            changed = np.array(values[k])
            changed.reshape(-1)[element] += 0.37
            args = [*values[:k], jnp.asarray(changed), *values[k + 1 :]]
            after = apply_equation(eqn, args)
            for j in smooth:
                table[k, j][:, element] = (np.asarray(after[j]) != before[j]).reshape(-1)
    return table


def by_differentiating(eqn, values, followed, smooth):
    def at(*moving):
        args = list(values)
        for k, value in zip(followed, moving, strict=True):
            args[k] = value
        outs = apply_equation(eqn, args)
        return [jnp.real(outs[j]) for j in smooth]

    moving = [values[k] for k in followed]
    jacobians = jax.jit(jax.jacrev(at, argnums=tuple(range(len(followed)))))(*moving)
    return {
        (k, j): np.asarray(jac).reshape(-1, values[k].size) != 0
        for j, row in zip(smooth, jacobians, strict=True)
        for k, jac in zip(followed, row, strict=True)
    }


def gathered(rows, marks):
    """The label of every row: none, the only one among its elements, or several."""
    out = []
    for row in rows:
        seen = {m for m, used in zip(marks, row, strict=True) if used and m != NONE}
        several = SEVERAL in seen or len(seen) > 1
        out.append(SEVERAL if several else seen.pop() if seen else NONE)
    return np.array(out, int)


def as_array(found, size):
    return np.full(size, NONE) if found is None else np.asarray(found).reshape(-1)


def random_labels(shape):
    """Labels with some elements that have none, and some that share one."""
    return rng.randint(-1, max(int(np.prod(shape)), 1) // 2 + 2, size=shape).astype(np.int32)


def check_equation(eqn, values, exact):
    """Compare both passes through one equation with its Jacobian."""
    table = dependencies(eqn, values, exact)
    sizes_in = [int(np.prod(v.shape)) for v in eqn.inputs]
    sizes_out = [int(np.prod(v.shape)) for v in eqn.outputs]
    compare = assert_same if exact else assert_sound

    given_ = [random_labels(v.shape) if isinstance(v, Var) else None for v in eqn.inputs]
    found = forward_labels(eqn, given_)
    for j, v in enumerate(eqn.outputs):
        if is_differentiable(v):
            columns = [(table[k, j], given_[k].reshape(-1)) for k in range(len(sizes_in))
                       if (k, j) in table]  # fmt: skip
            if columns:
                rows = np.concatenate([m for m, _ in columns], axis=1)
                marks = np.concatenate([a for _, a in columns])
                compare(as_array(found[j], sizes_out[j]), gathered(rows, marks), eqn)

    given_ = [random_labels(v.shape) for v in eqn.outputs]
    found = backward_labels(eqn, given_)
    for k, v in enumerate(eqn.inputs):
        rows = [(table[k, j].T, given_[j].reshape(-1)) for j in range(len(sizes_out))
                if (k, j) in table]  # fmt: skip
        if rows and isinstance(v, Var):
            matrix = np.concatenate([m for m, _ in rows], axis=1)
            marks = np.concatenate([a for _, a in rows])
            compare(as_array(found[k], sizes_in[k]), gathered(matrix, marks), eqn)


def assert_same(found, expected, eqn):
    np.testing.assert_array_equal(found, expected, err_msg=eqn.name)


def assert_sound(found, expected, eqn):
    """Labels may merge more than they must, never less."""
    fine = (found == SEVERAL) | (found == expected) | (expected == NONE)
    assert fine.all(), eqn.name


def check(function, *shapes, exact=True, needs=(), known=True):
    """Check every equation of a function, on random values."""
    steps = program(function, *shapes)
    names = {eqn.name for eqn in steps.equations}
    assert set(needs) <= names, f'{function} no longer uses {set(needs) - names}, but {names}'
    env = run(steps, [jnp.asarray(rng.rand(*s) + 0.5) for s in shapes])
    assert steps.equations
    for eqn in steps.equations:
        if known:
            assert is_known(eqn), eqn.name
        check_equation(eqn, [env(v) for v in eqn.inputs], exact)


# ---------------------------------------------------------------- one rule after the other

EXACT = {
    'add': (lambda a, b: a + b, [(2, 3), (2, 3)], ['add']),
    'scalar operand': (lambda a, b: a * b, [(2, 3), ()], ['mul']),
    'size-1 axis': (lambda a, b: jax.lax.mul(a, b), [(2, 3), (2, 1)], ['mul']),
    'two size-1 axes': (lambda a, b: a * b, [(2, 1), (1, 3)], ['mul']),
    'chain': (lambda a: jnp.tanh(jax.nn.sigmoid(a) ** 2), [(5,)], ['tanh', 'logistic']),
    'div and sub': (lambda a, b: (a - b) / (a + b), [(5,), (5,)], ['div', 'sub']),
    'pow': (lambda a, b: a**b, [(3,), (3,)], ['pow']),
    'rsqrt, exp, log': (lambda a: jax.lax.rsqrt(jnp.exp(a) + jnp.log1p(a)), [(3,)], ['rsqrt']),
    'astype': (lambda a: a.astype('float32'), [(3,)], ['convert_element_type']),
    'reshape': (lambda a: a.reshape(3, 4), [(2, 6)], ['reshape']),
    'squeeze': (lambda a: jnp.squeeze(a, 1), [(2, 1, 3)], ['squeeze']),
    'expand_dims': (lambda a: jnp.expand_dims(a, 1), [(2, 3)], []),
    'transpose': (lambda a: jnp.transpose(a, (2, 0, 1)), [(2, 3, 4)], ['transpose']),
    'rev': (lambda a: jnp.flip(a, 1), [(2, 3)], ['rev']),
    'rev, both': (lambda a: jnp.flip(a), [(2, 3)], ['rev']),
    'roll': (lambda a: jnp.roll(a, 1), [(5,)], ['concatenate']),
    'roll, two axes': (lambda a: jnp.roll(a, (1, -1), (0, 1)), [(3, 4)], ['concatenate']),
    'slice': (lambda a: a[1:4, ::2], [(5, 4)], ['slice']),
    'slice, strides': (lambda a: jax.lax.slice(a, (1,), (8,), (3,)), [(9,)], ['slice']),
    'index': (lambda a: a[1], [(3, 2)], []),
    'ellipsis index': (lambda a: a[..., -1], [(3, 2)], []),
    'pad': (lambda a: jnp.pad(a, ((1, 2), (0, 1))), [(2, 3)], ['pad']),
    'pad, negative': (lambda a: jax.lax.pad(a, 0.0, ((-1, 2, 0),)), [(5,)], ['pad']),
    'pad, interior': (lambda a: jax.lax.pad(a, 0.0, ((1, -2, 2),)), [(4,)], ['pad']),
    'pad, only negative': (lambda a: jax.lax.pad(a, 0.0, ((-1, -1, 1),)), [(4,)], ['pad']),
    'pad, wrap': (lambda a: jnp.pad(a, 1, mode='wrap'), [(4,)], []),
    'concatenate': (lambda a, b: jnp.concatenate([a, b, a], 1), [(2, 3), (2, 1)], ['concatenate']),
    'stack': (lambda a, b: jnp.stack([a, b], 1), [(2, 3), (2, 3)], []),
    'stack, last': (lambda a, b: jnp.stack([a, b], -1), [(2, 3), (2, 3)], []),
    'unstack': (lambda a: jnp.unstack(a, axis=1), [(2, 3)], []),
    'split': (lambda a: jnp.split(a, 3, axis=1), [(2, 6)], ['split']),
    'split, uneven': (lambda a: jnp.split(a, [1, 4], axis=0), [(6, 2)], ['split']),
    'tile': (lambda a: jnp.tile(a, (2, 3)), [(2, 2)], []),
    'repeat': (lambda a: jnp.repeat(a, 2, axis=1), [(2, 3)], []),
    'gather, permutation': (lambda a: a[jnp.array([2, 0, 1])], [(3,)], ['gather']),
    'gather, repeated': (lambda a: a[jnp.array([2, 2, 0])], [(3,)], ['gather']),
    'gather, columns': (lambda a: a[:, jnp.array([1, 0])], [(2, 3)], ['gather']),
    'gather, pairs': (lambda a: a[jnp.array([0, 1]), jnp.array([2, 0])], [(2, 3)], ['gather']),
    'gather, outside': (
        lambda a: a.at[jnp.array([0, 7, 1])].get(mode='fill', fill_value=0.0), [(3,)], ['gather'],
    ),
    'gather, clipped': (lambda a: a.at[jnp.array([0, 7])].get(mode='clip'), [(3,)], ['gather']),
    'take_along_axis': (
        lambda a: jnp.take_along_axis(a, jnp.array([[1, 0], [2, 2]]), 1), [(2, 3)], ['gather'],
    ),
    'diagonal': (lambda a: a[jnp.arange(3), jnp.arange(3)], [(3, 3)], ['gather']),
    'pad, with data': (lambda a, b: jax.lax.pad(a, b, ((1, 1, 1),)), [(4,), ()], ['pad']),
    'dynamic_slice': (
        lambda a: jax.lax.dynamic_slice(a, (1, 9), (2, 2)), [(3, 4)], ['dynamic_slice'],
    ),
    'dynamic_update_slice': (
        lambda a, b: jax.lax.dynamic_update_slice(a, b, (1, 9)), [(3, 4), (2, 2)],
        ['dynamic_update_slice'],
    ),
    'scatter': (lambda a, b: a.at[jnp.array([2, 0])].set(b), [(4,), (2,)], ['scatter']),
    'scatter, last axis': (lambda a, b: a.at[..., 1].set(b), [(2, 3), (2,)], ['scatter']),
    'scatter-add': (lambda a, b: a.at[jnp.array([2, 0])].add(b), [(4,), (2,)], ['scatter-add']),
    'scatter-mul': (
        lambda a, b: a.at[jnp.array([2, 0])].multiply(b, unique_indices=True), [(4,), (2,)],
        ['scatter-mul'],
    ),
    'scatter, outside': (
        lambda a, b: a.at[jnp.array([2, 9])].set(b, mode='drop'), [(4,), (2,)], ['scatter'],
    ),
    'broadcast_in_dim': (
        lambda a: jax.lax.broadcast_in_dim(a, (2, 3, 4), (0, 2)), [(2, 4)], ['broadcast_in_dim'],
    ),
    'broadcast_in_dim, size 1': (
        lambda a: jax.lax.broadcast_in_dim(a, (2, 3, 4), (0, 1)), [(2, 1)], ['broadcast_in_dim'],
    ),
    'broadcast_in_dim, scalar': (lambda a: jnp.broadcast_to(a, (2, 3)), [()], ['broadcast_in_dim']),
    'sum': (lambda a: a.sum(1), [(2, 3)], ['reduce_sum']),
    'sum of all': (lambda a: a.sum(), [(2, 3)], ['reduce_sum']),
    'sum of two axes': (lambda a: a.sum((0, 2)), [(2, 3, 2)], ['reduce_sum']),
    'prod': (lambda a: jnp.prod(a, 0), [(2, 3)], ['reduce_prod']),
    'mean, keepdims': (lambda a: a.mean(1, keepdims=True), [(2, 3)], ['reduce_sum']),
    'dot': (lambda a, b: a @ b, [(2, 3), (3, 4)], ['dot_general']),
    'dot, vector': (lambda a, b: a @ b, [(3,), (3, 4)], ['dot_general']),
    'dot, inner': (lambda a, b: a @ b, [(3,), (3,)], ['dot_general']),
    'dot, batch': (lambda a, b: jnp.einsum('bij,bjk->bik', a, b), [(2, 2, 3), (2, 3, 2)],
                   ['dot_general']),
    'dot, batch only': (lambda a, b: jnp.einsum('bi,bi->b', a, b), [(2, 3), (2, 3)], []),
    'dot, batch and transposed': (
        lambda a, b: jnp.einsum('ibj,kjb->bik', a, b), [(2, 3, 2), (2, 2, 3)], ['dot_general'],
    ),
    'dot, outer': (lambda a, b: jnp.einsum('i,j->ij', a, b), [(2,), (3,)], []),
    'dot, width 1': (lambda a, b: a @ b, [(2, 1), (1, 1)], ['dot_general']),
    'marked product': (lambda a, b: matmul(a, b), [(2, 3), (3, 2)], ['etp_matmul']),
    'marked product, transposed': (
        lambda a, b: einsum('bi,io->ob', a, b), [(2, 3), (3, 2)], ['etp_einsum'],
    ),
    'marked product, grouped': (
        lambda a, b: grouped_matmul(a, b), [(2, 3, 2), (3, 2, 2)], ['etp_grouped_matmul'],
    ),
    'marked parameter': (lambda a: element_wise(a), [(2, 3)], ['etp_element_wise']),
    'marked parameter, repeated': (
        lambda a: element_wise_op.primitive.bind(a, shared=(2, 1)), [(3,)], ['etp_element_wise'],
    ),
    'relu': (jax.nn.relu, [(2, 3)], ['custom_jvp_call']),
    'marked product, batched weights': (
        lambda a, b: jax.vmap(matmul)(a, b), [(2, 3), (2, 3, 2)], ['etp_matmul'],
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', EXACT)
def test_rule_is_exact(name):
    function, shapes, needs = EXACT[name]
    check(function, *shapes, needs=needs)


SOUND = {
    'where': (lambda a, b: jnp.where(jnp.array([True, False, True]), a, b), [(3,), (3,)], []),
    'cumsum': (lambda a: jnp.cumsum(a, 1), [(2, 3)], ['cumsum']),
    'cumprod': (lambda a: jnp.cumprod(a, 0), [(2, 3)], ['cumprod']),
    'max': (lambda a: a.max(1), [(2, 3)], ['reduce_max']),
    'max of all': (lambda a: a.max(), [(2, 3)], ['reduce_max']),
    'maximum': (lambda a, b: jnp.maximum(a, b), [(3,), (3,)], ['max']),
    'clip': (lambda a: jnp.clip(a, 0.7, 1.2), [(5,)], []),
    'select by data': (lambda a, b: jnp.where(a > b, a, b), [(5,), (5,)], ['select_n']),
    'relu': (jax.nn.relu, [(4,)], ['custom_jvp_call']),
    'softmax': (jax.nn.softmax, [(2, 4)], ['reduce_max']),
    'logsumexp': (jax.nn.logsumexp, [(4,)], []),
    'stop_gradient': (lambda a: jax.lax.stop_gradient(a) * a, [(4,)], ['stop_gradient']),
    'round': (lambda a: jnp.round(a) * a, [(4,)], ['round']),
    'index by data': (lambda a: a[jnp.argmax(a)] * a, [(4,)], ['argmax']),
    'gather by data': (lambda a, b: a[b.astype(int)], [(4,), (2,)], ['gather']),
    'repeated updates': (
        lambda a, b: a.at[jnp.array([1, 1])].add(b),
        [(4,), (2,)],
        ['scatter-add'],
    ),
}


@pytest.mark.parametrize('name', SOUND)
def test_rule_is_sound(name):
    function, shapes, needs = SOUND[name]
    check(function, *shapes, exact=False, needs=needs, known=name != 'index by data')


UNKNOWN = {
    'sort': (lambda a: jnp.sort(a), [(4,)], ['sort']),
    'two operands': (lambda a, b: jax.lax.sort((a, b), num_keys=1), [(4,), (4,)], ['sort']),
    'scan': (lambda a: jax.lax.scan(lambda c, x: (c + x, c * x), 0.5, a), [(4,)], ['scan']),
    'cond': (lambda a: jax.lax.cond(a[0] > 0, lambda a: a[::-1], jnp.tanh, a), [(4,)], ['cond']),
    'fft': (lambda a: jnp.real(jnp.fft.fft(a)), [(4,)], ['fft']),
    'convolution': (lambda a, b: jnp.convolve(a, b), [(4,), (3,)], ['conv_general_dilated']),
}  # fmt: skip


@pytest.mark.parametrize('name', UNKNOWN)
def test_unknown_primitive_merges_everything_and_says_so(name):
    function, shapes, needs = UNKNOWN[name]
    steps = program(function, *shapes)
    for need in needs:
        assert need in {eqn.name for eqn in steps.equations if not is_known(eqn)}
    check(function, *shapes, exact=False, needs=needs, known=False)
    eqn = next(e for e in steps.equations if e.name == needs[0])
    marks = [
        np.arange(np.prod(v.shape), dtype=np.int32).reshape(v.shape) if v.shape else None
        for v in eqn.inputs
    ]
    for v, found in zip(eqn.outputs, forward_labels(eqn, marks), strict=True):
        assert found is None if not is_differentiable(v) else (found == SEVERAL).all()


# ---------------------------------------------------------------- functions with rules of their own


@jax.custom_jvp
def threshold(v):
    return (v > 0.7).astype(v.dtype)


threshold.defjvp(lambda p, t: (threshold(*p), t[0] * jnp.exp(-(p[0] ** 2))))


@jax.custom_jvp
def flipped_threshold(v, scale):
    return (v[::-1] > 0.7).astype(v.dtype) * scale


flipped_threshold.defjvp(
    lambda p, t: (flipped_threshold(*p), t[0][::-1] * p[1] + flipped_threshold(*p) / p[1] * t[1])
)


@jax.custom_vjp
def mean_and_self(v):
    return v, v.mean(1)


mean_and_self.defvjp(
    lambda v: (mean_and_self(v), None), lambda _, g: (g[0] + g[1][:, None] / 3 * jnp.ones((1, 3)),)
)


def test_custom_jvp_follows_its_body():
    """A spike is a comparison inside, so that labels follow values, not its zero derivative."""
    check(threshold, (4,), needs=['custom_jvp_call'])


def test_custom_jvp_that_permutes():
    check(flipped_threshold, (4,), (4,), needs=['custom_jvp_call'], exact=False)
    (eqn,) = program(flipped_threshold, (4,), (4,)).equations
    labels_ = np.arange(4, dtype=np.int32)
    assert forward_labels(eqn, [labels_, None])[0].tolist() == [3, 2, 1, 0]
    assert forward_labels(eqn, [None, labels_])[0].tolist() == [0, 1, 2, 3]
    back = backward_labels(eqn, [labels_])
    assert [b.tolist() for b in back] == [[3, 2, 1, 0], [0, 1, 2, 3]]


def test_custom_vjp_with_two_results():
    check(mean_and_self, (2, 3), needs=['custom_vjp_call'])


def test_stop_gradient_inside_a_body_keeps_its_position():
    @jax.custom_jvp
    def scaled(v):
        return jax.lax.stop_gradient(v) * v

    scaled.defjvp(lambda p, t: (scaled(*p), 2 * p[0] * t[0]))
    check(scaled, (4,), needs=['custom_jvp_call'])


# ---------------------------------------------------------------- random parameters

sides = st.integers(1, 4)


@given(st.data())
@settings(max_examples=25)
def test_random_slices(data):
    n, m = data.draw(sides), data.draw(sides)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    stride = data.draw(st.integers(1, 3))
    check(lambda a: jax.lax.slice(a, (start, 0), (stop, m), (stride, 1)) * 2, (n, m))


@given(st.data())
@settings(max_examples=25)
def test_random_pads(data):
    n = data.draw(st.integers(1, 4))
    interior = data.draw(st.integers(0, 2))
    length = n + (n - 1) * interior
    low = data.draw(st.integers(-length + 1, 2))
    high = data.draw(st.integers(-length - min(low, 0) + 1, 2))
    check(lambda a: jax.lax.pad(a, 0.0, ((low, high, interior), (0, 1, 0))), (n, 2))


@given(st.data())
@settings(max_examples=25)
def test_random_products(data):
    """Random letters on both sides: batch, contracted and free axes in any order."""
    letters = data.draw(st.permutations('abcd'))
    sizes = dict(zip('abcd', data.draw(st.tuples(*[st.integers(1, 3)] * 4)), strict=True))
    left = data.draw(st.permutations(letters[:3]))
    right = data.draw(st.permutations(letters[1:]))
    shared = letters[1:3]
    kept = data.draw(st.sets(st.sampled_from(shared), max_size=2))
    out = data.draw(st.permutations([letters[0], letters[3], *sorted(kept)]))
    equation = f'{"".join(left)},{"".join(right)}->{"".join(out)}'
    check(
        lambda a, b: jnp.einsum(equation, a, b),
        tuple(sizes[i] for i in left),
        tuple(sizes[i] for i in right),
    )


@given(st.permutations(range(3)), st.tuples(sides, sides, sides))
@settings(max_examples=15)
def test_random_transposes_and_reshapes(order, shape):
    check(lambda a: jnp.transpose(a, order).reshape(-1), shape)


# ---------------------------------------------------------------- whole functions


def whole_function(a, w):
    """Splits, permutes, pads and joins again; every way is followed to the end."""
    left, right = jnp.split(a, 2, axis=-1)
    swapped = jnp.concatenate([right[..., ::-1], left], axis=-1)
    padded = jnp.pad(swapped, ((0, 0), (1, 0)))[:, :-1]
    return jnp.tanh(padded * w) + jnp.roll(a, 1, -1)


def push_forward(steps, marks):
    env = dict(zip(steps.inputs, marks, strict=True))
    for eqn in steps.equations:
        found = forward_labels(eqn, [env.get(v) for v in eqn.inputs])
        env.update(zip(eqn.outputs, found, strict=True))
    return env[steps.outputs[0]]


def test_labels_of_a_whole_function():
    a, w = rng.randn(2, 6), rng.rand(6) + 0.5
    steps = program(whole_function, (2, 6), (6,))
    matrix = np.asarray(jax.jacrev(whole_function)(a, w)).reshape(12, 12) != 0
    found = push_forward(steps, [np.arange(12, dtype=np.int32).reshape(2, 6), None])
    expected = gathered(matrix, np.arange(12))
    np.testing.assert_array_equal(found.reshape(-1), expected)
    assert SEVERAL in expected
    assert (expected >= 0).any()


def test_shapes_with_zero_elements():
    check(lambda a: jnp.concatenate([a[:0], a]) * 2, (3,))
    steps = program(lambda a: a.sum(0), (0, 3))
    (found,) = forward_labels(steps.equations[0], [np.zeros((0, 3), np.int32)])
    assert found is None


# ---------------------------------------------------------------- negative controls


def in_order(eqn):
    """A move that forgets to move."""
    size = int(np.prod(eqn.inputs[0].shape))
    return [np.arange(int(np.prod(eqn.outputs[0].shape))).reshape(eqn.outputs[0].shape) % size]


@pytest.mark.parametrize('name', ['rev', 'slice', 'transpose', 'broken pad'])
def test_control_wrong_move_is_caught(monkeypatch, name):
    function, shapes, needs = EXACT['pad, interior' if name == 'broken pad' else name]
    monkeypatch.setattr(
        labels, 'source_indices', lambda eqn: [*in_order(eqn), None][: len(eqn.inputs)]
    )
    with pytest.raises(AssertionError):
        check(function, *shapes, needs=needs)


@pytest.mark.parametrize('name', ['cumsum', 'softmax'])
def test_control_reduction_taken_for_elementwise_is_caught(monkeypatch, name):
    function, shapes, needs = SOUND[name]
    monkeypatch.setattr(labels, '_CUMULATIVE', frozenset())
    monkeypatch.setattr(labels, '_REDUCTIONS', frozenset())
    monkeypatch.setattr(labels, 'collapse', partial(_first_of, labels.collapse))
    with pytest.raises((AssertionError, ValueError)):
        check(function, *shapes, exact=False, needs=needs, known=False)


def _first_of(collapse, marks, axes, keepdims=True):
    """A merge that forgets all but the first element."""
    index = tuple(slice(0, 1) if i in axes else slice(None) for i in range(marks.ndim))
    return collapse(marks[index], axes, keepdims)


def test_a_scalar_keeps_its_rank():
    """A reduction to a scalar has one label without an axis, and what follows can read it."""
    program = program_of(lambda x: jnp.tanh(x.sum() * 2.0), jnp.ones(3))
    labels = {program.inputs[0]: np.full(3, 1, np.int32)}
    for eqn in program.equations:
        out = forward_labels(eqn, [labels.get(v) for v in eqn.inputs])
        labels.update(zip(eqn.outputs, out, strict=True))
    assert labels[program.outputs[0]].shape == ()
    assert labels[program.outputs[0]] == 1

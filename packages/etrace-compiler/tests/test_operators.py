"""What holds for every operator: the block law, values, derivatives, maps, units and dtypes."""

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import sparse

from etrace_compiler import (
    check_operator,
    conv,
    einsum,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
    sparse_matmul,
)

from . import models
from .operator_cases import CASES, MAPS, mapped, marks, stacked

every = pytest.mark.parametrize('name', CASES)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@every
@given(st.data())
@settings(max_examples=4)
def test_the_block_law(name, data):
    """It also holds for the operator that a map makes of the operator."""
    case = CASES[name](data.draw)
    kinds = data.draw(st.sampled_from(MAPS))
    x, w = stacked(case.x, 'x', kinds), stacked(case.weight, 'w', kinds)
    ((operator, operands, params),) = marks(mapped(case.call, kinds), x, w)
    assert operator.name == f'etp_{name}'
    assert params.get('mapped', ()) == kinds
    check_operator(operator, *operands, **params)


@every
@given(st.data())
@settings(max_examples=4)
def test_values_and_derivatives(name, data):
    case = CASES[name](data.draw)
    kinds = data.draw(st.sampled_from(MAPS))
    x, w = stacked(case.x, 'x', kinds), stacked(case.weight, 'w', kinds)
    bias = models.random(*case.bias_shape, seed=3)

    def actual(x, w, b):
        call = mapped(lambda x, w: case.call(x, w, b, weight_fn=jnp.sin, bias_fn=jnp.exp), kinds)
        y = call(x, w)
        return jnp.sum(jnp.tanh(y)), y

    def expected(x, w, b):
        y = mapped(lambda x, w: case.add(case.plain(x, jnp.sin(w)), jnp.exp(b)), kinds)(x, w)
        return jnp.sum(jnp.tanh(y)), y

    moving = (1, 2) if jnp.issubdtype(x.dtype, jnp.integer) else (0, 1, 2)
    got, wanted = (
        jax.jit(jax.value_and_grad(f, moving, has_aux=True))(x, w, bias) for f in (actual, expected)
    )
    jax.tree.map(close, got, wanted)


DTYPES = ['float16', 'bfloat16', 'float32', 'float64', 'complex64', 'complex128']


@pytest.mark.parametrize('name', [name for name in CASES if name != 'embedding'])
@given(st.data())
@settings(max_examples=3)
def test_dtypes_and_units(name, data):
    """The common dtype, as JAX has it; the product of the units."""
    case = CASES[name](data.draw)
    of_x, of_weight = (
        data.draw(st.sampled_from([*DTYPES, 'int32', 'bool'])),
        data.draw(st.sampled_from(DTYPES)),
    )
    x, w = jnp.abs(case.x).astype(of_x), case.weight.astype(of_weight)
    y = case.call(x * u.mV, w * u.mS, jnp.zeros(case.bias_shape) * u.nA)
    assert u.get_mantissa(case.call(x, w)).dtype == jnp.promote_types(of_x, of_weight)
    wide = [np.asarray(a, complex) for a in (x, w)]
    np.testing.assert_allclose(
        np.asarray(y.to_decimal(u.uA), complex), case.plain(*wide), rtol=0.05, atol=0.05
    )


def test_a_convolution_in_three_dimensions():
    x, w = models.random(2, 4, 3, 4, 3), models.random(6, 2, 2, 1, 3, seed=1)
    window = {'padding': [(1, 0), (0, 0), (2, 1)], 'rhs_dilation': (2, 1, 1)}

    def call(x, w):
        return conv(x, w, strides=(1, 2, 1), feature_group_count=2, **window)

    wanted = jax.lax.conv_general_dilated(x, w, (1, 2, 1), feature_group_count=2, **window)
    close(call(x, w), wanted)
    ((operator, operands, params),) = marks(call, x, w)
    check_operator(operator, *operands, **params)


def test_a_real_input_of_a_complex_weight_stays_real():
    x, w = models.random(4, 3), models.random(3, 2) + 1j * models.random(3, 2, seed=1)
    ((operator, operands, params),) = marks(matmul, x, w)
    assert [a.dtype for a in operands] == ['float64', 'complex128']
    check_operator(operator, *operands, **params)
    close(matmul(x, w), x.astype(complex) @ w)


@pytest.mark.parametrize('dtype', DTYPES)
def test_dtype_and_unit_of_a_look_up(dtype):
    table = jnp.asarray(np.arange(6).reshape(3, 2), dtype) * u.mV
    for index in ('int8', 'uint32', 'int64'):
        y = embedding(jnp.asarray([2, 0], index), table)
        assert (y.unit, y.mantissa.dtype) == (u.mV, dtype)
        close(y.mantissa.astype(complex), [[4, 5], [0, 1]])


def test_an_index_outside_is_seen_under_jit():
    """Nothing can be raised there."""
    found = jax.jit(embedding)(jnp.array([0, 3, -1]), models.random(3, 2))
    assert jnp.isnan(found).tolist() == [[False] * 2, [True] * 2, [True] * 2]


@pytest.mark.parametrize('kind', ['CSR', 'CSC'])
def test_sparse_matrices_of_brainevent(kind):
    brainevent = pytest.importorskip('brainevent')
    dense = jnp.array([[0.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
    matrix = getattr(brainevent, kind).fromdense(dense)
    x = models.random(4, 2)
    close(sparse_matmul(x, matrix.data, sparse_mat=matrix), x @ dense)


# ---------------------------------------------------------------- bad input


def bcoo(rows, columns):
    """A sparse matrix of two rows and columns."""
    return sparse.BCOO((jnp.ones(len(rows)), jnp.stack([*map(jnp.asarray, (rows, columns))], 1)),
                       shape=(2, 2))  # fmt: skip


ERRORS = [
    (lambda: grouped_matmul(jnp.ones((4, 3, 2)), jnp.ones((2, 2, 5))), 'ETC802',
     r'`grouped_matmul` cannot multiply these shapes: got x \(4, 3, 2\) and weight \(2, 2, 5\)'),
    (lambda: grouped_matmul(jnp.ones(2), jnp.ones((2, 5))), 'ETC802', 'weight .groups, in, out.'),
    (lambda: einsum('ai,io->ao', jnp.ones((4, 3)), jnp.ones((2, 5))), 'ETC802',
     "`einsum` cannot multiply these shapes: .* expected shapes of the form 'ai,io->ao'"),
    (lambda: einsum('ai,io->ao', jnp.ones(3), jnp.ones((3, 5))), 'ETC802', r'got x \(3,\)'),
    (lambda: einsum('ai,io', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', 'not written as'),
    (lambda: einsum('ai,io,ox->ax', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', 'not letters'),
    (lambda: einsum('a1,1o->ao', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', 'not letters'),
    (lambda: einsum('aa,ao->ao', jnp.ones((3, 3)), jnp.ones((3, 5))), 'ETC804',
     "'a' stands twice in 'aa'"),
    (lambda: einsum('abi,io->ao', jnp.ones((2, 4, 3)), jnp.ones((3, 5))), 'ETC804',
     "'b' stands in one place alone"),
    (lambda: einsum('ai,io->a', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', "'o' stands in one"),
    (lambda: einsum('ai,io->aoz', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', "'z' stands in"),
    (lambda: einsum('...i,...o->...o', jnp.ones((4, 3)), jnp.ones((3, 5))), 'ETC804', 'written'),
    (lambda: matmul(jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.ones(3)), 'ETC805',
     r'`matmul bias` has the wrong shape: got \(3,\); expected \(2,\)'),
    (lambda: matmul(jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.ones((4, 2))), 'ETC805', r'\(4, 2\)'),
    (lambda: grouped_matmul(jnp.ones((3, 2)), jnp.ones((3, 2, 5)), jnp.ones((2, 5))), 'ETC805',
     r'got \(2, 5\); expected \(3, 5\)'),
    (lambda: matmul(jnp.ones((4, 3)) * u.mV, jnp.ones((3, 2)), jnp.ones(2) * u.nA), 'ETC803',
     r'`matmul bias` has the wrong unit: got \[nA\]; expected \[mV\]'),
    (lambda: conv(jnp.ones((1, 3, 8)), jnp.ones((4, 2, 3))), 'ETC802',
     r'`conv` cannot multiply these shapes: got x \(1, 3, 8\) and weight \(4, 2, 3\)'),
    (lambda: conv(jnp.ones((1, 4, 8)), jnp.ones((3, 2, 3)), feature_group_count=2), 'ETC802',
     'in 2 equal groups'),
    (lambda: conv(jnp.ones((1, 3)), jnp.ones((4, 3))), 'ETC802', 'conv'),
    (lambda: conv(jnp.ones((4, 3, 8)), jnp.ones((4, 3, 3)), batch_group_count=2), 'ETC806',
     '`conv batch_group_count` is not supported: got 2; expected 1'),
    (lambda: conv(jnp.ones(8), jnp.ones((4, 3, 3))), 'ETC806', '`conv x` has the wrong number of'),
    (lambda: conv(jnp.ones((3, 8)), jnp.ones((4, 3, 3)), strides=(1, 1)), 'ETC806',
     r'`conv strides` does not fit the kernel: got \(1, 1\); expected 1 numbers'),
    (lambda: conv(jnp.ones((3, 8)), jnp.ones((4, 3, 3)), padding=[(1, 1), (0, 0)]), 'ETC806',
     '`conv padding` does not fit'),
    (lambda: conv(jnp.ones((3, 8)), jnp.ones((4, 3, 3)), lhs_dilation=2), 'ETC806', 'or pairs'),
    (lambda: conv(jnp.ones((3, 8)), jnp.ones((4, 3, 3)), jnp.ones(3)), 'ETC806',
     r'`conv bias` has the wrong shape: got \(3,\); expected \(4,\)'),
    (lambda: lora_matmul(jnp.ones(3), jnp.ones((3, 2)), jnp.ones((3, 4))), 'ETC802',
     r'cannot multiply its factors: got B \(3, 2\) and A \(3, 4\)'),
    (lambda: lora_matmul(jnp.ones(4), jnp.ones((3, 2)), jnp.ones((2, 4))), 'ETC802', 'rank'),
    (lambda: sparse_matmul(jnp.ones(3), jnp.ones(2), sparse_mat=bcoo([0, 1], [0, 1])), 'ETC802',
     r'got x \(3,\) and weight \(2,\); expected x \(..., 2\) and weight \(2,\)'),
    (lambda: sparse_matmul(jnp.ones(2), jnp.ones(3), sparse_mat=bcoo([0, 1], [0, 1])), 'ETC802',
     'values of sparse_mat'),
    (lambda: sparse_matmul(jnp.ones(2), jnp.ones(3), sparse_mat=bcoo([0, 1, 0], [0, 1, 0])),
     'ETC807', r'`sparse_mat` has duplicate entries: got \(0, 0\) more than once'),
    (lambda: sparse_matmul(jnp.ones(2), jnp.ones(2), sparse_mat=bcoo([0, 2], [0, 2])), 'ETC807',
     r'`sparse_mat` has an entry outside: got \(2, 2\); expected places in \(2, 2\)'),
    (lambda: jax.jit(lambda i: sparse_matmul(jnp.ones(2), jnp.ones(2), sparse_mat=bcoo(i, i)))(
        jnp.arange(2)), 'ETC807', '`sparse_mat` is not constant'),
    (lambda: embedding(jnp.ones(2), jnp.ones((3, 2))), 'ETC808',
     '`embedding indices` are not integers: got float64; expected an integer dtype'),
    (lambda: embedding(jnp.array([True]), jnp.ones((3, 2))), 'ETC808', 'got bool'),
    (lambda: embedding(jnp.array([0, 3]), jnp.ones((3, 2))), 'ETC808',
     '`embedding indices` are outside the table: got 3; expected 0 to 2'),
    (lambda: embedding(-1, jnp.ones((3, 2))), 'ETC808', 'got -1; expected 0 to 2'),
    (lambda: embedding(0, jnp.ones(3)), 'ETC808', r'`embedding weight` is no table: got \(3,\)'),
    (lambda: embedding(0, jnp.ones((3, 2)), active_rows=0), 'ETC808', 'active_rows` is too small'),
    (lambda: sparse_matmul(jnp.ones(2), jnp.ones(2), sparse_mat=np.eye(2)), 'ETC807',
     '`sparse_mat` is no sparse matrix: got a ndarray'),
]  # fmt: skip


@pytest.mark.parametrize(('call', 'code', 'text'), ERRORS)
def test_bad_input_is_refused_in_one_sentence(call, code, text):
    with pytest.raises((IndexError, TypeError, ValueError), match=text) as caught:
        call()
    assert str(caught.value).endswith(f'[{code}]')
    assert '\n' not in str(caught.value)

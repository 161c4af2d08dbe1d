"""Structured projections and convolutions do what those of `brainstate.nn` do."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import etrace_nn

pytestmark = pytest.mark.usefixtures('x64')


DILATED = {'lhs_dilation': 2}
MASK = np.tri(3)[..., None, None]


def both(name, *args, **options):
    """Build our layer and brainstate's from the same random numbers."""
    layers = []
    for module in (etrace_nn, brainstate.nn):
        brainstate.random.seed(3)
        layers.append(getattr(module, name)(*args, **options))
    return layers


@pytest.mark.parametrize(
    ('name', 'in_size', 'options'),
    [
        ('Conv1d', (8, 4), {'kernel_size': 5, 'stride': 2}),
        ('Conv1d', (8, 4), {'kernel_size': 3, 'padding': (0, 2), 'rhs_dilation': 2, 'groups': 2}),
        ('Conv1d', (4, 8), {'kernel_size': 3, 'padding': 1, 'channel_first': True, **DILATED}),
        ('Conv2d', (6, 5, 2), {'kernel_size': 3, 'b_init': brainstate.nn.init.Normal()}),
        ('Conv2d', (6, 5, 2), {'kernel_size': (2, 3), 'padding': 'VALID', 'stride': (2, 1)}),
        ('Conv2d', (6, 5, 2), {'kernel_size': 3, 'padding': 1, 'w_mask': MASK}),
        ('Conv3d', (3, 4, 5, 2), {'kernel_size': 2, 'padding': ((0, 1), (1, 0), (1, 1))}),
    ],
)  # fmt: skip
def test_convolutions_equal_brainstate(name, in_size, options, random):
    ours, theirs = both(name, in_size, 6, **options)
    x = random(2, *in_size)
    assert ours.out_size == theirs.out_size
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours(x[0]), theirs(x[0]), rtol=1e-12, atol=1e-14)
    more = ours(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(more[0], theirs(x), rtol=1e-12, atol=1e-14)


def test_a_mask_stops_the_gradient_of_a_kernel(random):
    mask = (np.arange(3) > 0).astype(float)[:, None, None]
    layer = etrace_nn.Conv1d((8, 2), 2, 3, w_mask=mask)
    x = random(8, 2)
    gradient = brainstate.transform.grad(lambda: layer(x).sum(), layer.weight)()['weight']
    np.testing.assert_array_equal((gradient != 0).any((1, 2)), [False, True, True])


def test_a_convolutional_cell_is_a_cell_where_the_window_is_one(random):
    brainstate.random.seed(0)
    cell = etrace_nn.ConvGRUCell((5, 3), 4, kernel_size=1)
    dense = etrace_nn.GRUCell(3, 4)
    for name in ('Wrz', 'Wh'):
        params = getattr(cell, name).weight.value
        getattr(dense, name).weight.value = {**params, 'weight': params['weight'][0]}
    x = random(6, 2, 5, 3)
    cell.init_state(2)
    dense.init_state((2, 5))
    expected = brainstate.transform.for_loop(dense, x)
    np.testing.assert_allclose(brainstate.transform.for_loop(cell, x), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r'`ConvGRUCell input` has the wrong size: .*ETC602'):
        cell(x[0, ..., :2])


def test_blocks(random):
    layer = etrace_nn.GroupedLinear(6, 4, groups=2, b_init=brainstate.nn.init.Normal())
    weight, bias = layer.weight.value['weight'], layer.weight.value['bias']
    dense = jax.scipy.linalg.block_diag(*weight)
    x = random(5, 6)
    np.testing.assert_allclose(layer(x), x @ dense + bias.ravel(), rtol=1e-12)
    assert etrace_nn.GroupedLinear(6, 4, 2, w_init=1.0 * u.mA, b_init=None)(x).unit == u.mA


def test_a_low_rank(random):
    base = etrace_nn.Linear(4, 3)
    ours, theirs = both('LoRA', 4, 2, 3, base_module=base)
    x = random(5, 4)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12)
    half = etrace_nn.LoRA(4, 2, 3, alpha=0.5)
    half.weight.value = ours.weight.value
    np.testing.assert_allclose(2 * half(x), ours(x) - base(x), rtol=1e-11)


@pytest.mark.parametrize('kind', [sparse.BCOO, sparse.BCSR])
def test_a_fixed_pattern(kind, random):
    dense = np.where(random(4, 3) > 0, random(4, 3), 0)
    layer = etrace_nn.SparseLinear(kind.fromdense(dense), b_init=brainstate.nn.init.Normal())
    x = random(2, 5, 4)
    np.testing.assert_allclose(layer(x), x @ dense + layer.weight.value['bias'], rtol=1e-12)


def test_a_table():
    ours, theirs = both('Embedding', 5, (2, 3), padding_idx=1)
    indices = np.array([[0, 1, 4], [2, 2, 1]])
    np.testing.assert_array_equal(ours(indices), theirs(indices))
    gradient = brainstate.transform.grad(lambda: ours(indices).sum(), ours.weight)()
    np.testing.assert_array_equal(gradient[:, 0, 0], [1, 0, 2, 0, 1])


@pytest.mark.parametrize(
    ('build', 'error', 'message'),
    [
        (
            lambda: etrace_nn.GroupedLinear(6, 4, groups=4),
            ValueError,
            r'`GroupedLinear groups` do not divide .*: got 4 groups of 6 inputs .*ETC611',
        ),
        (
            lambda: etrace_nn.Embedding(5, 2, padding_idx=5),
            ValueError,
            r'`padding_idx` is outside the table: got 5; expected 0 to 4\. .*ETC612',
        ),
        (lambda: etrace_nn.Embedding(5, 2)(jnp.ones(3)), TypeError, 'are not integers.*ETC808'),
        (lambda: etrace_nn.Embedding(5, 2)(jnp.array([7])), IndexError, 'got 7; .*ETC808'),
        (
            lambda: etrace_nn.Conv2d((8, 2), 3, 3),
            ValueError,
            r'`Conv2d in_size` has the wrong number of axes: got \(8, 2\); expected 3: .*ETC613',
        ),
        (lambda: etrace_nn.Conv1d((8, 2), 3, 3, groups=2), ValueError, 'ETC802'),
        (lambda: etrace_nn.Conv1d((8, 2), 3, 3, stride=0), ValueError, 'ETC806'),
        (lambda: etrace_nn.Conv1d((8, 2), 3, 3)(jnp.ones((8, 3))), ValueError, 'ETC602'),
        (
            lambda: etrace_nn.SparseLinear(
                sparse.BCOO((jnp.ones(2), jnp.array([[0, 1], [0, 1]])), shape=(2, 2))
            ),
            ValueError,
            'ETC807',
        ),
        (lambda: etrace_nn.SparseLinear(np.ones((2, 2))), TypeError, 'ETC807'),
    ],
)
def test_errors_at_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()

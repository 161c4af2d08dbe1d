"""An operator that somebody else registers; `docs/how-to/add-an-operator.md` shows this file."""

# --8<-- [start:operator]
import brainstate
import jax
import jax.numpy as jnp
import pytest

import etrace_algorithms
from etrace_algorithms.testing import assert_gradients_close, bptt_gradients, online_gradients
from etrace_compiler import check_operator, register_primitive


def circulant_matrix(kernel):
    """Return the matrix whose row `i` is the kernel, moved on by `i`."""
    n = kernel.shape[0]
    return kernel[(jnp.arange(n)[None, :] - jnp.arange(n)[:, None]) % n]


def to_block(value, kernel_shape):
    """Bring `(..., n)` into the form `(G, 1, n)`."""
    return value.reshape((-1, 1, value.shape[-1]))


circulant_op = register_primitive(
    'example_circulant',
    lambda x, kernel: x @ circulant_matrix(kernel),
    x_block=to_block,  # (G, H, I)
    w_block=lambda kernel: circulant_matrix(kernel)[None],  # (H, I, O)
    y_block=to_block,  # (G, H, O)
)


def circulant(x, kernel):
    """Multiply by the circulant matrix of a trainable kernel: `n` numbers, not `n * n`."""
    return circulant_op.primitive.bind(x, kernel)
    # --8<-- [end:operator]


# --8<-- [start:law]
def test_the_block_law():
    x, kernels = brainstate.random.randn(5, 2, 4), brainstate.random.randn(5, 4)
    check_operator(circulant_op, x, kernels[0], rtol=1e-5)
    check_operator(circulant_op, x, kernels, mapped=('xw',), rtol=1e-5)


def test_vmap_over_data_and_over_kernels():
    x, kernels = brainstate.random.randn(5, 2, 4), brainstate.random.randn(5, 4)
    for axes in ((0, None), (None, 0), (0, 0)):
        xs = x if axes[0] == 0 else x[0]
        ks = kernels if axes[1] == 0 else kernels[0]
        found = jax.vmap(circulant, axes)(xs, ks)
        expected = jax.vmap(lambda x, k: x @ circulant_matrix(k), axes)(xs, ks)
        assert jnp.allclose(found, expected, atol=1e-6)
        # --8<-- [end:law]


# --8<-- [start:learns]
class Leaky(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = brainstate.ParamState(brainstate.random.randn(4))

    def init_state(self, batch_size=None, **_):
        lead = () if batch_size is None else (batch_size,)
        self.h = brainstate.HiddenState(jnp.zeros((*lead, 4)))

    def update(self, x):
        self.h.value = 0.9 * self.h.value + jnp.tanh(circulant(x, self.kernel.value))
        return self.h.value


def loss(y):
    return (y**2).sum()


def compare(name='d_rtrl', steps=10, chunk_size=1, **options):
    """Return the online gradient of the kernel, and that of backpropagation."""
    xs = brainstate.random.randn(steps, 2, 4)
    learner = etrace_algorithms.compile(Leaky(), name, xs[0], batch_size=2, **options)
    model = Leaky()
    model.kernel.value = learner.model.kernel.value
    brainstate.nn.init_all_states(model, batch_size=2)
    return online_gradients(learner, xs, loss=loss, chunk_size=chunk_size), bptt_gradients(
        model, xs, loss=loss
    )


@pytest.mark.parametrize('chunk_size', [1, 5])
@pytest.mark.parametrize('vmap', [False, True])
def test_a_kernel_learns(chunk_size, vmap):
    found, expected = compare(chunk_size=chunk_size, vmap=vmap)
    assert_gradients_close(found, expected, rtol=1e-4)
    # --8<-- [end:learns]


@pytest.mark.parametrize(('name', 'options'), [('pp_prop', {'decay_or_rank': 0.5}),
                                               ('immediate', {})])  # fmt: skip
def test_every_learner_takes_it(name, options):
    """One step is exact for all; over several these two are not: the negative control."""
    assert_gradients_close(*compare(name, 1, **options), rtol=1e-4)
    found, expected = compare(name, 10, **options)
    assert not jnp.allclose(found['kernel',], expected['kernel',], rtol=0.1)

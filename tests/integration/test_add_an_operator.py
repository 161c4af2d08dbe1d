"""An operator that somebody else registers; `docs/how-to/add-an-operator.md` shows this file."""

# --8<-- [start:operator]
import math

import brainstate
import jax
import jax.numpy as jnp

import etrace_algorithms
from etrace_algorithms.testing import assert_gradients_close, bptt_gradients, online_gradients
from etrace_compiler import check_operator, register_primitive


def forward(x, weight):
    """Multiply the last axes of `x` by a weight of their shape."""
    return x * weight


def to_block(value, weight_shape):
    """Bring `(..., *weight_shape)` into the form `(G, H, 1)`."""
    return value.reshape((-1, math.prod(weight_shape), 1))


def batching(args, axes):
    """Move a new axis to the front of what is batched."""
    (x, weight), (x_axis, weight_axis) = args, axes
    if x_axis is None:
        x = jnp.broadcast_to(x, (weight.shape[weight_axis], *x.shape))
        x_axis = 0
    if weight_axis is None:
        return scale_op.primitive.bind(jnp.moveaxis(x, x_axis, 0), weight), 0
    # A weight of its own for each sample: the batch axis is now one of those that do not mix.
    weight = jnp.moveaxis(weight, weight_axis, 0)
    axis = x.ndim - weight.ndim
    return scale_op.primitive.bind(jnp.moveaxis(x, x_axis, axis), weight), axis


scale_op = register_primitive(
    'example_scale',
    forward,
    x_block=to_block,  # (G, H, I): shared axes, one head for each feature, one input to each
    w_block=lambda weight: weight.reshape((-1, 1, 1)),  # (H, I, O)
    y_block=to_block,  # (G, H, O)
    batching=batching,
)


def scale(x, weight):
    """Multiply by a trainable gain for each feature."""
    return scale_op.primitive.bind(x, weight)
    # --8<-- [end:operator]


# --8<-- [start:law]
def test_the_block_law():
    x, gain = brainstate.random.randn(5, 4, 3), brainstate.random.randn(3)
    check_operator(scale_op, x, gain, rtol=1e-6)


def test_vmap():
    x, gain = brainstate.random.randn(5, 4, 3), brainstate.random.randn(4, 3)
    assert jnp.allclose(jax.vmap(scale, (0, None))(x, gain[0]), x * gain[0])
    assert jnp.allclose(jax.vmap(scale, (1, 0), 1)(x, gain), x * gain)
    assert jnp.allclose(jax.vmap(scale, (None, 0))(x, gain), x * gain[:, None, None])
    # --8<-- [end:law]


# --8<-- [start:learns]
class Leaky(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = brainstate.ParamState(brainstate.random.randn(3))

    def init_state(self, batch_size=None):
        self.h = brainstate.HiddenState(jnp.zeros((batch_size, 3)))

    def update(self, x):
        self.h.value = 0.9 * self.h.value + jnp.tanh(scale(x, self.gain.value))
        return self.h.value


def test_a_weight_of_the_operator_learns():
    xs = brainstate.random.randn(20, 4, 3)
    learner = etrace_algorithms.compile(Leaky(), 'd_rtrl', xs[0], batch_size=4)
    expected = bptt_gradients(learner.model, xs, loss=lambda y: (y**2).sum())
    actual = online_gradients(learner, xs, loss=lambda y: (y**2).sum())
    assert_gradients_close(actual, expected, rtol=1e-5)
    # --8<-- [end:learns]


def test_an_unmarked_product_does_not():
    """The negative control: a plain product has no trace, and its gradient is another."""

    class Unmarked(Leaky):
        def update(self, x):
            self.h.value = 0.9 * self.h.value + jnp.tanh(x * self.gain.value)
            return self.h.value

    xs = brainstate.random.randn(20, 4, 3)
    learner = etrace_algorithms.compile(Unmarked(), 'd_rtrl', xs[0], batch_size=4)
    expected = bptt_gradients(learner.model, xs, loss=lambda y: (y**2).sum())
    actual = online_gradients(learner, xs, loss=lambda y: (y**2).sum())
    assert not jnp.allclose(actual['gain',], expected['gain',], rtol=0.1)

"""What stands between an operator, the state and the output: norms, means, moves, dropout.

Every tail stands at three places of one model: behind the product that drives `h`, on the way of
`g` to itself, and before the output.
"""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from etrace_compiler import DiagnosticKind, element_wise, matmul

from .measured import Case, Model, N, case, check_case, compiled, parameter, values

K = DiagnosticKind
#: The models have parameters that some steps do not use.
pytestmark = pytest.mark.filterwarnings('ignore:.*ETC208')
TAILS, LAYERS = {}, {}


def around(f):
    """Put a tail at the three places."""

    def step(m, x):
        m.h.value = 0.6 * m.h.value + f(m, matmul(x, m.W.value))
        m.g.value = f(m, 0.6 * m.g.value + matmul(x, m.V.value))
        return f(m, m.h.value * m.g.value)

    return step


def tail(exact='', loose=''):
    """Add a tail; `W` is what it leaves exact behind the product, `V` on the way of the state."""

    def add(f):
        step = around(f)
        TAILS[f.__name__] = Case(
            f.__name__, lambda: Model(step), (f, step), frozenset(exact.split()),
            frozenset(loose.split()),
        )  # fmt: skip
        return f

    return add


# ---------------------------------------------------------------- norms and reductions


@tail()
def layer_norm(m, y):
    centred = y - y.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt(y.var(axis=-1, keepdims=True) + 1e-2)


@tail()
def rms_norm(m, y):
    return y / jnp.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-2) * jax.nn.sigmoid(m.a.value)


@tail()
def softmax(m, y):
    return jax.nn.softmax(y, axis=-1)


@tail()
def mean_field(m, y):
    return y - 0.3 * y.mean(axis=-1, keepdims=True)


@tail()
def mean_over_the_batch(m, y):
    return y - 0.5 * y.mean(axis=0)


@tail()
def clipped_norm(m, y):
    return y * jnp.minimum(1.0, 1 / jnp.linalg.norm(y))


@tail()
def cumulative_sum(m, y):
    return jnp.cumsum(y, axis=-1)


@tail()
def max_pooling(m, y):
    """By windows: their derivative selects an element, it does not look for one that is equal.

    That of `jnp.max` divides by the number of elements equal to the maximum, which is zero where
    the compiler of XLA rounds the two copies of an element in two ways.
    """
    pooled = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2), (1, 2), 'VALID')
    return jnp.repeat(pooled, 2, axis=-1)


@tail(exact='W V')
def mean_without_derivative(m, y):
    return y - 0.3 * lax.stop_gradient(y.mean(axis=-1, keepdims=True))


@tail(exact='W V')
def winners_take_all(m, y):
    """Only the selection looks at other positions."""
    return jnp.where(y >= lax.top_k(y, 2)[0][..., -1:], y, 0.1 * y)


# ---------------------------------------------------------------- moves


@tail(exact='W')
def roll(m, y):
    return jnp.tanh(jnp.roll(y, 1, axis=-1))


@tail(exact='W')
def flip(m, y):
    return y[:, ::-1] ** 2


@tail(exact='W')
def permute(m, y):
    return jnp.sin(y[:, jnp.array([2, 0, 3, 1])])


@tail(exact='W')
def transposed_grid(m, y):
    return jnp.tanh(y.reshape(2, 2, 2)).swapaxes(1, 2).reshape(2, N)


@tail(exact='W V')
def there_and_back(m, y):
    return jnp.roll(jnp.tanh(jnp.roll(y.T, 1, axis=0)).reshape(N, 2).T, -1, axis=-1)


@tail(exact='W V')
def reshape(m, y):
    return jnp.sin(y.reshape(2, 2, 2)).reshape(2, N)


@tail()
def order_from_a_state(m, y):
    """Which element goes where is known only when the model runs."""
    return jnp.tanh(y[:, jnp.argsort(m.R.value[0])])


@tail()
def projection(m, y):
    return jnp.tanh(y @ values(N, N, seed=77))


@tail()
def convolution(m, y):
    kernel = jnp.array([0.2, 0.5, 0.3])
    return jnp.stack([jnp.convolve(row, kernel, 'same') for row in y])


# ---------------------------------------------------------------- position by position


@tail(exact='W V')
def mask(m, y):
    return y * np.array([1.0, 0.0, 1.0, 0.5])


@tail(exact='W V')
def rounded_with_a_straight_derivative(m, y):
    return y + lax.stop_gradient(jnp.round(4 * y) / 4 - y)


@tail(exact='W V')
def piecewise(m, y):
    return jnp.select([y > 1, y < -0.5], [1 + 0.1 * y, jnp.expm1(y)], 0.3 * y) + jax.nn.gelu(y)


@tail(exact='W V')
def looked_up_between_points(m, y):
    points = jnp.linspace(-2, 2, 5)
    return jnp.interp(y, points, points**2)


@pytest.mark.parametrize('found', TAILS.values(), ids=str)
def test_tails(found):
    check_case(found)


@pytest.mark.parametrize('found', TAILS.values(), ids=str)
def test_what_a_tail_costs_is_recorded_with_its_line(found):
    """Kind of record and the tail's own line, for the weight behind it and the state before it."""
    graph = compiled(found, 'd_rtrl', None).graph
    lost = {
        'W': {K.RELATION_PARTIAL_PATH, K.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT},
        'V': {K.RECURRENCE_CUT},
    }
    f, _ = found.step
    own = Case('', found.make, f, frozenset())
    for key, kinds in lost.items():
        dropped = graph.exactness[key].dropped
        if key in found.exact:
            assert not dropped
        else:
            assert kinds & {d.reason for d in dropped}
            assert any(own.owns(d.source) for d in dropped)


# ---------------------------------------------------------------- layers of brainstate


class WithLayer(brainstate.nn.Module):
    """A leaky state behind a product and a layer."""

    fit = False

    def __init__(self):
        super().__init__()
        self.W = parameter(3, N, seed=1)
        self.layer = self.make()

    def init_state(self, *args, **kwargs):
        self.h = brainstate.HiddenState(values(2, N, seed=11))

    def update(self, x):
        with brainstate.environ.context(fit=self.fit):
            self.h.value = 0.6 * self.h.value + self.layer(matmul(x, self.W.value))
        return self.h.value


@case(LAYERS, exact='W')
class BatchNormInEvaluation(WithLayer):
    """Fixed statistics: position by position. Its own weights are not marked."""

    def make(self):
        layer = brainstate.nn.BatchNorm0d((N,))
        layer.running_mean.value = values(1, N, seed=5)
        layer.running_var.value = 1 + values(1, N, seed=6) ** 2
        return layer


@case(LAYERS)
class LayerNorm(WithLayer):
    def make(self):
        return brainstate.nn.LayerNorm((N,))


@case(LAYERS)
class RMSNorm(WithLayer):
    def make(self):
        return brainstate.nn.RMSNorm((N,))


@case(LAYERS, exact='W')
class Dropout(WithLayer):
    """Its mask comes from the global random state."""

    fit = True

    def make(self):
        return brainstate.nn.Dropout(0.5)


@case(LAYERS, exact='W a')
class DropoutWithItsOwnKey(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.W, self.a = parameter(3, N, seed=1), parameter(N, seed=4)

    def init_state(self, *args, **kwargs):
        self.h = brainstate.HiddenState(values(2, N, seed=11))
        self.key = brainstate.ShortTermState(jax.random.key(4))

    def update(self, x):
        self.key.value, now = jax.random.split(self.key.value)
        kept = jax.random.bernoulli(now, 0.5, (2, N))
        leak = jax.nn.sigmoid(element_wise(self.a.value))
        self.h.value = leak * self.h.value + jnp.where(kept, 2 * matmul(x, self.W.value), 0)
        return self.h.value


@pytest.mark.parametrize('found', LAYERS.values(), ids=str)
def test_layers(found):
    check_case(found)

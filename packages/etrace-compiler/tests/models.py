"""One-step models, each with one property that the compiler has to get right."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import element_wise, matmul

N_IN, N = 3, 4


def random(*shape, seed=0, scale=0.5):
    """Fixed random numbers in float64."""
    return jnp.asarray(np.random.RandomState(seed).randn(*shape) * scale)


def parameter(*shape, seed=0, scale=0.5):
    """A parameter with fixed random values."""
    return brainstate.ParamState(random(*shape, seed=seed, scale=scale))


def hidden(*shape, seed=50):
    """A hidden state with fixed random values: an all-zero state hides mistakes."""
    return brainstate.HiddenState(random(*shape, seed=seed, scale=0.7))


def ready(model, **options):
    """Initialise the states of a model and return it."""
    brainstate.nn.init_all_states(model, **options)
    return model


class Cell(brainstate.nn.Module):
    """A cell with one state `h` of shape `(*batch, N)`, an input weight and a recurrent one."""

    def __init__(self, batch=(), width=1):
        super().__init__()
        self.batch = tuple(batch)
        self.W = parameter(N_IN, width * N, seed=1)
        self.R = parameter(N, width * N, seed=2)
        self.b = parameter(width * N, seed=3)

    def init_state(self, *args, **kwargs):
        self.h = hidden(*self.batch, N)

    def drive(self, x):
        return matmul(x, self.W.value) + matmul(self.h.value, self.R.value, self.b.value)


class Elman(Cell):
    """`h = tanh(W x + R h + b)`."""

    def update(self, x):
        self.h.value = jnp.tanh(self.drive(x))
        return self.h.value


class Leaky(Cell):
    """No recurrent weight: a learned decay per unit, broadcast over the batch."""

    def __init__(self, batch=()):
        super().__init__(batch)
        del self.R, self.b
        self.decay = parameter(N, seed=4)

    def update(self, x):
        decay = jax.nn.sigmoid(element_wise(self.decay.value))
        self.h.value = decay * self.h.value + matmul(x, self.W.value)
        return self.h.value


class GRU(brainstate.nn.Module):
    """A gated unit whose reset gate acts before the recurrent product."""

    def __init__(self, n_in=N_IN, n=N, batch=(), seed=10):
        super().__init__()
        self.n, self.batch = n, tuple(batch)
        for i, gate in enumerate('zrc'):
            setattr(self, f'W{gate}', parameter(n_in, n, seed=seed + i))
            setattr(self, f'R{gate}', parameter(n, n, seed=seed + 3 + i))

    def init_state(self, *args, **kwargs):
        self.h = hidden(*self.batch, self.n)

    def update(self, x):
        h = self.h.value
        z = jax.nn.sigmoid(matmul(x, self.Wz.value) + matmul(h, self.Rz.value))
        r = jax.nn.sigmoid(matmul(x, self.Wr.value) + matmul(h, self.Rr.value))
        c = jnp.tanh(matmul(x, self.Wc.value) + matmul(r * h, self.Rc.value))
        self.h.value = (1 - z) * h + z * c
        return self.h.value


class LSTM(Cell):
    """One fused product for four gates; `h` reads the new `c`."""

    def __init__(self, batch=(), recurrent=True):
        super().__init__(batch, width=4)
        self.recurrent = recurrent

    def init_state(self, *args, **kwargs):
        self.h = hidden(*self.batch, N)
        self.c = hidden(*self.batch, N, seed=51)

    def update(self, x):
        y = self.drive(x) if self.recurrent else matmul(x, self.W.value, self.b.value)
        i, f, g, o = jnp.split(y, 4, axis=-1)
        c = jax.nn.sigmoid(f) * self.c.value + jax.nn.sigmoid(i) * jnp.tanh(g)
        self.c.value = c
        self.h.value = jax.nn.sigmoid(o) * jnp.tanh(self.c.value)
        return self.h.value


@jax.custom_jvp
def spike(v):
    """A step with a surrogate derivative."""
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
    (v,), (t,) = primals, tangents
    return spike(v), t / (1 + 9 * v**2)


class SpikingChain(Cell):
    """Synapse, membrane and adaptation; the output spikes are those before the reset."""

    def __init__(self, batch=(), recurrent=False):
        super().__init__(batch)
        self.recurrent = recurrent
        self.tau = parameter(N, seed=5)

    def init_state(self, *args, **kwargs):
        self.g = hidden(*self.batch, N, seed=52)
        self.v = hidden(*self.batch, N, seed=53)
        self.a = hidden(*self.batch, N, seed=54)

    def update(self, x):
        z = spike(self.v.value - self.a.value)
        y = matmul(x, self.W.value)
        if self.recurrent:
            y = y + matmul(z, self.R.value)
        self.g.value = 0.7 * self.g.value + y
        decay = jax.nn.sigmoid(element_wise(self.tau.value))
        self.v.value = decay * self.v.value * (1 - z) + self.g.value
        self.a.value = 0.9 * self.a.value + 0.2 * z + 0.1 * self.v.value
        return z


class RolledTail(Cell):
    """Operator results reach the positions 1, 2, 3, 0."""

    def update(self, x):
        self.h.value = 0.8 * self.h.value + jnp.tanh(jnp.roll(self.drive(x), 1, axis=-1))
        return self.h.value


class FlippedTail(Cell):
    """Operator results reach the positions 3, 2, 1, 0."""

    def update(self, x):
        self.h.value = 0.8 * self.h.value + jnp.tanh(self.drive(x))[..., ::-1]
        return self.h.value


class PermutedTail(Cell):
    """A gather with fixed indices between operator and state."""

    def update(self, x):
        y = self.drive(x)[..., np.array([2, 0, 3, 1])]
        self.h.value = 0.8 * self.h.value + jnp.tanh(y)
        return self.h.value


class InterleavedGates(Cell):
    """A fused product whose gates lie side by side for every unit, not one after the other."""

    def __init__(self, batch=()):
        super().__init__(batch, width=2)

    def update(self, x):
        y = self.drive(x)
        y = y.reshape(*y.shape[:-1], N, 2)
        self.h.value = jax.nn.sigmoid(y[..., 0]) * self.h.value + jnp.tanh(y[..., 1])
        return self.h.value


class NormTail(Cell):
    """A layer norm between operator and state: only its two reductions mix positions."""

    def update(self, x):
        y = self.drive(x)
        mean = y.mean(axis=-1, keepdims=True)
        var = ((y - mean) ** 2).mean(axis=-1, keepdims=True)
        self.h.value = 0.8 * self.h.value + (y - mean) * jax.lax.rsqrt(var + 0.1)
        return self.h.value


class MeanField(Cell):
    """Every unit is driven by the mean of all."""

    def update(self, x):
        h = self.h.value
        y = matmul(x, self.W.value)
        self.h.value = 0.8 * h + 0.3 * jnp.tanh(h.mean(axis=-1, keepdims=True) + y)
        return self.h.value


class NeighbourLeak(Cell):
    """`0.8 h + 0.1 roll(h)`: only the roll leads to other positions."""

    def update(self, x):
        h = self.h.value
        self.h.value = 0.8 * h + 0.1 * jnp.roll(h, 1, axis=-1) + matmul(x, self.W.value)
        return self.h.value


class BatchNorm(Cell):
    """A reduction over the batch, which mixes positions as well."""

    def __init__(self, batch=(5,)):
        super().__init__(batch)

    def update(self, x):
        y = self.drive(x)
        self.h.value = 0.8 * self.h.value + (y - y.mean(axis=0))
        return self.h.value


class DelayLine(Cell):
    """Pure copies: what was new becomes old, twice."""

    def init_state(self, *args, **kwargs):
        for i in range(3):
            setattr(self, f'h{i}', hidden(*self.batch, N, seed=50 + i))

    def update(self, x):
        self.h2.value = self.h1.value
        self.h1.value = self.h0.value
        self.h0.value = 0.5 * self.h2.value + matmul(x, self.W.value)
        return self.h2.value


class NeverWritten(Cell):
    """A hidden state that the step only reads."""

    def init_state(self, *args, **kwargs):
        self.h = hidden(*self.batch, N)
        self.target = hidden(*self.batch, N, seed=51)

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value - self.target.value


class ResetEveryStep(Cell):
    """A state that is written with a constant, whatever it was."""

    def update(self, x):
        old = self.h.value
        self.h.value = jnp.zeros_like(old)
        return old + matmul(x, self.W.value)


class TwoShapes(Cell):
    """A state per unit, and a state per pair of units."""

    def init_state(self, *args, **kwargs):
        self.h = hidden(*self.batch, N)
        self.m = hidden(*self.batch, N, N, seed=51)

    def update(self, x):
        h = jnp.tanh(matmul(x, self.W.value) + self.h.value)
        self.m.value = 0.9 * self.m.value + 0.1 * h[..., :, None] * h[..., None, :]
        self.h.value = h + 0.1 * (self.m.value @ h[..., None])[..., 0]
        return self.h.value


class StackedStates(Cell):
    """Two states per position in one `HiddenGroupState`."""

    def init_state(self, *args, **kwargs):
        self.s = brainstate.HiddenGroupState(random(*self.batch, N, 2, seed=50))

    def update(self, x):
        y = matmul(x, self.W.value)
        c, h = self.s.value[..., 0], self.s.value[..., 1]
        c = 0.5 * c + jnp.tanh(y) * h
        h = 0.3 * h + jnp.sin(c)
        self.s.value = jnp.stack([c, h], axis=-1)
        return h


class StackedAndPlain(Cell):
    """A `HiddenGroupState` of two and a `HiddenState` beside it, in one group."""

    def init_state(self, *args, **kwargs):
        self.s = brainstate.HiddenGroupState(random(*self.batch, N, 2, seed=50))
        self.h = hidden(*self.batch, N)

    def update(self, x):
        y = matmul(x, self.W.value)
        self.s.value = 0.5 * self.s.value + jnp.sin(y)[..., None] * self.h.value[..., None]
        self.h.value = 0.2 * self.h.value + self.s.value[..., 0] * self.s.value[..., 1]
        return self.h.value


class TreeStates(Cell):
    """Two named states per position in a `HiddenTreeState`."""

    def init_state(self, *args, **kwargs):
        shape = (*self.batch, N)
        self.s = brainstate.HiddenTreeState({'v': random(*shape, seed=50),
                                             'a': random(*shape, seed=51)})  # fmt: skip

    def update(self, x):
        v, a = self.s.get_value('v'), self.s.get_value('a')
        v = 0.9 * v - 0.2 * a + matmul(x, self.W.value)
        self.s.set_value({'v': v, 'a': 0.5 * a + 0.1 * v**2})
        return v


class TwoLayers(brainstate.nn.Module):
    """Two layers of the same width, joined by a matrix product."""

    def __init__(self, first=Elman, second=Elman, batch=()):
        super().__init__()
        self.first = first(batch=batch)
        self.between = parameter(N, N_IN, seed=20)
        self.second = second(batch=batch)

    def update(self, x):
        return self.second(matmul(self.first(x), self.between.value))


class SkipLayers(brainstate.nn.Module):
    """Two layers with an elementwise connection: the second state adds the first one."""

    def __init__(self, batch=()):
        super().__init__()
        self.first, self.second = Leaky(batch), Leaky(batch)
        self.second.W.value = random(N_IN, N, seed=30)

    def update(self, x):
        first = self.first(x)
        second = self.second(x)
        self.second.h.value = second + jnp.tanh(first)
        return self.second.h.value


class Collections(brainstate.nn.Module):
    """Layers in a list and in a dictionary."""

    def __init__(self):
        super().__init__()
        self.layers = [Elman(), Leaky()]
        self.named = {'a': Leaky(), 'b': Leaky()}
        self.between = parameter(N, N_IN, seed=20)

    def update(self, x):
        x = matmul(self.layers[0](x), self.between.value)
        x = matmul(self.layers[1](x), self.between.value)
        return self.named['a'](x) + self.named['b'](x)


class Readout(brainstate.nn.Module):
    """A cell and a marked readout that reaches no hidden state."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.out = parameter(N, 2, seed=21)

    def update(self, x):
        return matmul(self.cell(x), self.out.value)


#: Models in which every operand is followed: the compiled derivatives are the complete ones.
POSITION_DIAGONAL = {
    'leaky': lambda: Leaky(),
    'leaky, batch': lambda: Leaky((2,)),
    'LSTM without recurrence, batch': lambda: LSTM((2,), recurrent=False),
    'spiking chain': lambda: SpikingChain(),
    'spiking chain, two batch axes': lambda: SpikingChain((2, 1)),
    'delay line': lambda: DelayLine(),
    'never written': lambda: NeverWritten(),
    'reset every step': lambda: ResetEveryStep(),
    'stacked states': lambda: StackedStates(),
    'stacked and plain': lambda: StackedAndPlain((2,)),
    'tree states': lambda: TreeStates((2,)),
    'skip connection': lambda: SkipLayers((2,)),
}

#: Models in which something mixes positions.
MIXING = {
    'Elman, batch': lambda: Elman((2,)),
    'GRU, batch': lambda: GRU(batch=(2,)),
    'LSTM, batch': lambda: LSTM((2,)),
    'spiking, recurrent': lambda: SpikingChain((2,), recurrent=True),
    'rolled tail': lambda: RolledTail((2,)),
    'flipped tail': lambda: FlippedTail((2,)),
    'permuted tail': lambda: PermutedTail((2,)),
    'interleaved gates': lambda: InterleavedGates((2,)),
    'layer norm': lambda: NormTail((2,)),
    'batch norm': lambda: BatchNorm((3,)),
    'mean field': lambda: MeanField((2,)),
    'neighbour leak': lambda: NeighbourLeak((2,)),
    'two shapes': lambda: TwoShapes((2,)),
    'two layers': lambda: TwoLayers(batch=(2,)),
    'readout': lambda: Readout(Elman((2,))),
    'collections': lambda: Collections(),
}

EVERY = {**POSITION_DIAGONAL, **MIXING}


def batch_of(model):
    """Leading axes of a model's input."""
    for part in (model, *vars(model).values()):
        if hasattr(part, 'batch'):
            return part.batch
    return ()


def build(name):
    """Return a model with its states initialised, and an input for it."""
    model = ready(EVERY[name]())
    return model, random(*batch_of(model), N_IN, seed=99, scale=1.0)

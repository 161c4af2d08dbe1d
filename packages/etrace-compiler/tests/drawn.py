"""Models whose pictures are tested, beside those of `models`."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp

from etrace_compiler import compile_etrace_graph, element_wise, matmul

from . import models
from .models import N_IN, N, parameter, random

X = random(2, N_IN, seed=99)


def compiled(model, *args):
    """Compile a model with states for `X`, or for other arguments."""
    return compile_etrace_graph(models.ready(model), *(args or (X,)))


class Fused(models.LSTM):
    """One product for the input and the state: an operand that is cut for one of the two."""

    def __init__(self, batch=()):
        super().__init__(batch)
        del self.R

    def drive(self, x):
        return matmul(jnp.concatenate([x, self.h.value], -1), self.W.value, self.b.value)


class Stack(brainstate.nn.Module):
    """Two LSTMs and a marked readout."""

    def __init__(self):
        super().__init__()
        self.rnn1 = models.LSTM((2,))
        self.rnn2 = Fused((2,))
        self.rnn2.W.value = random(2 * N, 4 * N, seed=7)
        self.out = parameter(N, 2, seed=21)

    def update(self, x):
        x = self.rnn1(x)
        x = self.rnn2(x)
        return matmul(x, self.out.value)


class Deep(brainstate.nn.Module):
    """Three gated layers and a readout that sees them all."""

    def __init__(self, layers=3):
        super().__init__()
        self.layers = [models.GRU(N_IN if i == 0 else N, batch=(2,)) for i in range(layers)]
        self.out = parameter(N, 2, seed=21)

    def update(self, x):
        total = 0.0
        for layer in self.layers:
            x = layer(x)
            total = total + x
        return matmul(total, self.out.value)


class EveryFate(models.Cell):
    """One weight for each reason not to have a trace."""

    def __init__(self):
        super().__init__((2,))
        self.before = parameter(N_IN, N, seed=11)
        self.plain = parameter(N, N, seed=12)
        self.readout = parameter(N, 2, seed=13)
        self.marked_readout = parameter(N, 2, seed=14)
        self.dynamic = parameter(N, N, seed=15)
        self.stopped = parameter(N, seed=16)
        self.forgotten = parameter(3)

    def update(self, x):
        h = self.h.value
        drive = matmul(x, self.W.value) + element_wise(self.b.value)
        drive = drive + jnp.tanh(matmul(x, self.before.value)) @ self.plain.value
        drive = drive + matmul(x, jnp.ones((N_IN, N)))
        drive = drive + matmul(h, self.dynamic.value * h.sum())
        drive = drive + jax.lax.stop_gradient(self.stopped.value)
        self.h.value = jnp.tanh(drive + matmul(h, self.R.value))
        return self.h.value @ self.readout.value, matmul(self.h.value, self.marked_readout.value)


class Feedforward(brainstate.nn.Module):
    """No hidden state at all."""

    def __init__(self):
        super().__init__()
        self.first, self.second = parameter(N_IN, N, seed=1), parameter(N, 2, seed=2)

    def update(self, x):
        return matmul(jnp.tanh(matmul(x, self.first.value)), self.second.value)


class Nothing(brainstate.nn.Module):
    """Neither states nor parameters, and no input."""

    def update(self):
        return jnp.ones(3)


class Detached(brainstate.nn.Module):
    """A second layer that gets the values of the first one and no derivative."""

    def __init__(self):
        super().__init__()
        self.first, self.second = models.Leaky((2,)), models.Leaky((2,))
        self.second.W.value = random(N, N, seed=3)

    def update(self, x):
        return self.second(jax.lax.stop_gradient(self.first(x)))


class Fed(models.Cell):
    """A state that is not hidden, a state with a unit, arguments in a structure."""

    def init_state(self, *args, **kwargs):
        self.h = brainstate.HiddenState(jnp.zeros((2, N)) * u.mV)
        self.mean = brainstate.ShortTermState(jnp.zeros((2, N)))
        self.calls = brainstate.ShortTermState(jnp.zeros((), int))

    def update(self, inputs, gain):
        self.calls.value = self.calls.value + 1
        y = matmul(inputs['x'] * gain, self.W.value) + matmul(self.mean.value, self.R.value)
        self.h.value = 0.5 * self.h.value + y * u.mV
        self.mean.value = 0.9 * self.mean.value + self.h.value / u.mV
        return {'h': self.h.value, 'mean': self.mean.value}


def fed():
    """Compile `Fed`."""
    return compiled(Fed(), {'x': X, 'unused': jnp.ones(())}, jnp.ones(()))


class Looping(models.Cell):
    """Marked operations inside and around a loop that stays one."""

    def update(self, x):
        y = matmul(x, self.W.value)

        def substep(i, h):
            return 0.9 * h + 0.1 * jnp.tanh(matmul(h, self.R.value) + y)

        self.h.value = jax.lax.fori_loop(0, 20, substep, self.h.value)
        return self.h.value * element_wise(self.b.value)


ODD = 'a"b<c>&\\ `|;]}#%%\n権'


class OddNames(brainstate.nn.Module):
    """Names that mean something in one of the formats, and a very long one."""

    def __init__(self):
        super().__init__()
        self.parts = {ODD: models.Elman((2,)), 'x' * 200: models.Leaky((2,))}
        self.out = {ODD: parameter(N, 2)}
        self.parts['x' * 200].W.value = random(N, N)

    def update(self, x):
        for part in self.parts.values():
            x = part(x)
        return x @ self.out[ODD].value


#: Graphs of every kind, by name.
GRAPHS = {
    'stack': lambda: compiled(Stack()),
    'deep': lambda: compiled(Deep()),
    'every fate': lambda: compiled(EveryFate()),
    'feedforward': lambda: compiled(Feedforward()),
    'nothing': lambda: compile_etrace_graph(Nothing()),
    'detached': lambda: compiled(Detached()),
    'fed': fed,
    'looping': lambda: compiled(Looping((2,))),
    'odd names': lambda: compiled(OddNames()),
    **{name: lambda name=name: compile_etrace_graph(*models.build(name)) for name in models.EVERY},
}

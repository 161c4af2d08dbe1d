"""Steps in complex numbers, units, integers, and parameters of several arrays."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
from jax import lax

from etrace_compiler import element_wise, matmul

from .measured import Model, N, case, hidden, parameter, values

NUMBERS, NUMBER_LOOPS = {}, {}


def rotation(m, dt=1.0):
    rate = jnp.exp(element_wise(m.nu.value)) - 1j * jnp.exp(element_wise(m.theta.value))
    return jnp.exp(-dt * rate)


class Complex(brainstate.nn.Module):
    """A complex state, real and complex weights, read out by its real part."""

    def __init__(self):
        super().__init__()
        self.nu, self.theta = parameter(N, seed=2), parameter(N, seed=3)
        self.W = parameter(3, N, seed=1)
        self.B = brainstate.ParamState(values(3, N, seed=6) + 1j * values(3, N, seed=7))
        self.C = brainstate.ParamState(values(N, 2, seed=4) + 1j * values(N, 2, seed=5))

    def init_state(self, *args, **kwargs):
        self.z = brainstate.HiddenState(values(2, N, seed=8) + 1j * values(2, N, seed=9))

    def read(self):
        return (self.z.value @ self.C.value).real


@case(NUMBERS, exact='nu theta W B C')
class ComplexDiagonal(Complex):
    def update(self, x):
        drive = (0.5 + 2j) * matmul(x, self.W.value) + matmul(x, self.B.value)
        self.z.value = rotation(self) * self.z.value + drive
        return self.read()


@case(NUMBERS, exact='W B C')
class ComplexBranch(Complex):
    def update(self, x):
        y = matmul(x, self.W.value)
        self.z.value = lax.cond(
            x.sum() > 0,
            lambda z: (0.5 + 0.3j) * z + y,
            lambda z: 0.3j * z + (1 + 1j) * y + matmul(x, self.B.value),
            self.z.value,
        )
        return self.read()


@case(NUMBER_LOOPS, exact='nu theta W B C')
class ComplexLoop(Complex):
    def update(self, x):
        def body(z, t):
            drive = matmul(x * t, self.W.value) + matmul(x, self.B.value * 1j)
            return rotation(self, 0.1) * z + 0.1 * drive, None

        self.z.value, _ = lax.scan(body, self.z.value, jnp.linspace(0.1, 1, 4))
        return self.read()


@case(NUMBERS, exact='C')
class ComplexTakenApart(Complex):
    """An absolute value on the way of the state is no complex number's derivative."""

    def update(self, x):
        drive = matmul(x, self.W.value) + matmul(x, self.B.value)
        self.z.value = 0.5 * jnp.abs(self.z.value) + 0.3j * self.z.value + drive
        return self.read()


# ---------------------------------------------------------------- units


class Neurons(brainstate.nn.Module):
    """Current-based neurons with units on everything."""

    def __init__(self):
        super().__init__()
        self.g = brainstate.ParamState(values(3, N, seed=1) * u.nS)
        self.tau = brainstate.ParamState((5 + jnp.abs(values(N, seed=2))) * u.ms)
        self.out = brainstate.ParamState(values(N, 2, seed=3) / u.mV)

    def init_state(self, *args, **kwargs):
        self.v = brainstate.HiddenState(values(2, N, seed=4) * u.mV)
        self.i = brainstate.HiddenState(values(2, N, seed=5) * u.pA)

    def membrane(self, v, i, dt):
        return v + (i * (1.0 * u.Gohm) - v) * (dt / element_wise(self.tau.value))


@case(NUMBERS, exact='g tau out')
class UnitNeurons(Neurons):
    def update(self, x):
        dt = 1.0 * u.ms
        self.i.value = self.i.value * jnp.exp(-dt / (5 * u.ms)) + matmul(x * u.mV, self.g.value)
        self.v.value = self.membrane(self.v.value, self.i.value, dt)
        return u.get_mantissa(self.v.value @ self.out.value)


@case(NUMBER_LOOPS, exact='g tau')
class UnitNeuronsInALoop(Neurons):
    def update(self, x):
        dt, current = 0.25 * u.ms, matmul(x * u.mV, self.g.value)

        def body(k, carry):
            v, i = carry
            i = i * jnp.exp(-dt / (5 * u.ms)) + 0.2 * current
            return self.membrane(v, i, dt), i

        self.v.value, self.i.value = lax.fori_loop(0, 4, body, (self.v.value, self.i.value))
        return self.v.value


@case(NUMBERS, exact='g')
class UnitNeuronsInABranch(Neurons):
    def update(self, x):
        current = matmul(x * u.mV, self.g.value)
        self.i.value = 0.9 * self.i.value + current
        self.v.value = lax.cond(
            x.sum() > 0,
            lambda v: 0.9 * v + self.i.value * (1.0 * u.Gohm),
            lambda v: 0.5 * v,
            self.v.value,
        )
        return self.v.value


# ---------------------------------------------------------------- integers and booleans


def counters(m):
    m.n = brainstate.HiddenState(jnp.zeros((2, N), jnp.int32))
    m.flag = brainstate.HiddenState(jnp.zeros((2, N), bool))


@case(NUMBERS, exact='W', setup=counters)
def integers_and_booleans(m, x):
    m.h.value = jnp.where(m.flag.value, 0.3, 0.8) * m.h.value + matmul(x, m.W.value)
    m.n.value = jnp.where(m.h.value > 0, 0, m.n.value + 1)
    m.flag.value = m.n.value > 1
    return m.h.value * jnp.exp(-m.n.value)


def clock(m):
    m.t = brainstate.ShortTermState(jnp.zeros((), jnp.int32))
    m.last = brainstate.HiddenState(jnp.full((2, N), -5.0))


@case(NUMBERS, exact='W', setup=clock)
def refractory_period(m, x):
    """The time of the last spike is kept; a spike passes no derivative here."""
    t = m.t.value * 1.0
    waits = t - m.last.value < 2
    v = jnp.where(waits, m.h.value, 0.8 * m.h.value + matmul(x, m.W.value))
    spikes = v > 0.5
    m.last.value = jnp.where(spikes, t, m.last.value)
    m.h.value = jnp.where(spikes, 0.0, v)
    m.t.value = m.t.value + 1
    return v


# ---------------------------------------------------------------- parameters of several arrays


@case(NUMBERS, exact='p')
class Nested(Model):
    """One parameter that holds a dictionary of arrays, lists and tuples."""

    def __init__(self):
        super().__init__()
        inner = [values(N, seed=2), {'leak': values(N, seed=3)}]
        out = (values(N, N, seed=4),)
        self.p = brainstate.ParamState({'w': values(3, N, seed=1), 'inner': inner, 'out': out})

    def update(self, x):
        p = self.p.value
        bias, leak = p['inner'][0], element_wise(p['inner'][1]['leak'])
        self.h.value = jax.nn.sigmoid(leak) * self.h.value + matmul(x, p['w'], bias)
        return self.h.value @ p['out'][0]


@case(NUMBERS, exact='Ws')
class WeightPerMember(Model):
    """An ensemble: one weight per member, by vmap."""

    def __init__(self):
        super().__init__()
        self.Ws = parameter(3, 3, N, seed=30)

    def init_state(self, *args, **kwargs):
        self.h = hidden(3, 2, N, seed=11)

    def update(self, x):
        member = lambda h, w: 0.8 * h + matmul(x, w)  # noqa: E731
        self.h.value = jax.vmap(member)(self.h.value, self.Ws.value)
        return self.h.value


# ---------------------------------------------------------------- precisions


class Precise(Model):
    """Two states, a drive, a decay and a loop, all in one dtype.

    Args:
        dtype: That dtype; the numbers are those that it can hold.
        kept: What they are held in.
    """

    def __init__(self, dtype, kept=None):
        super().__init__()
        self.dtype, self.kept = jnp.dtype(dtype), jnp.dtype(kept or dtype)
        for state in self.states(brainstate.ParamState).values():
            state.value = self.cast(state.value)

    def cast(self, value):
        return value.astype(self.dtype).astype(self.kept)

    def init_state(self, *args, **kwargs):
        super().init_state()
        self.h.value, self.g.value = self.cast(self.h.value), self.cast(self.g.value)

    def update(self, x):
        leak = jax.nn.sigmoid(element_wise(self.a.value))
        self.g.value = leak * self.g.value + matmul(x, self.W.value, self.b.value)

        def body(i, h):
            return 0.75 * h + 0.25 * jnp.tanh(self.g.value) * leak

        self.h.value = lax.fori_loop(0, 4, body, self.h.value)
        return self.h.value

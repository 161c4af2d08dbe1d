"""Steps that wire states and weights in the ways that users do; see `measured.Case`."""

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp

from etrace_compiler import element_wise, matmul

from .measured import N, case, hidden, parameter, values

WIRING = {}


def extra(**made):
    """Make a function that gives a model more states or parameters."""

    def setup(m):
        for name, make in made.items():
            setattr(m, name, make())

    return setup


def wide(count):
    """One weight for several gates."""
    return {'weights': extra(F=lambda: parameter(3, count * N, seed=21))}


# ---------------------------------------------------------------- one weight, several places


@case(WIRING, exact='F', **wide(4))
def four_gates_split(m, x):
    i, f, c, o = jnp.split(matmul(x, m.F.value), 4, axis=-1)
    m.g.value = jax.nn.sigmoid(f) * m.g.value + jax.nn.sigmoid(i) * jnp.tanh(c)
    m.h.value = jax.nn.sigmoid(o) * jnp.tanh(m.g.value) + 0.3 * m.h.value
    return m.h.value


@case(WIRING, exact='F', **wide(4))
def four_gates_reshaped(m, x):
    y = matmul(x, m.F.value).reshape(2, 4, N)
    m.h.value = jax.nn.sigmoid(y[:, 0]) * m.h.value + y[:, 1] * jnp.tanh(y[:, 2]) + y[:, 3]
    return m.h.value


@case(WIRING, exact='F', **wide(2))
def two_gates_interleaved(m, x):
    y = matmul(x, m.F.value)
    m.h.value = jax.nn.sigmoid(y[:, ::2]) * m.h.value + jnp.tanh(y[:, 1::2])
    return m.h.value


@case(WIRING, exact='F', **wide(2))
def two_gates_unstacked(m, x):
    gate, drive = matmul(x, m.F.value).reshape(2, 2, N).swapaxes(0, 1)
    m.h.value = jax.nn.sigmoid(gate) * m.h.value + drive
    return m.h.value


@case(WIRING, exact='W V')
def halves_of_two_products(m, x):
    left, right = matmul(x, m.W.value)[:, :2], matmul(x, m.V.value)[:, 2:]
    h = m.h.value
    halves = 0.5 * h[:, :2] + left, jnp.tanh(h[:, 2:]) * right
    m.h.value = jnp.concatenate(halves, axis=-1)
    return m.h.value


@case(WIRING, exact='W')
def columns_set_and_added_to(m, x):
    h = 0.5 * m.h.value + matmul(x, m.W.value)
    m.h.value = h.at[:, 1].set(0.2 * h[:, 1] ** 2).at[:, 2].add(x[:, 0]).at[:, 3].multiply(0.7)
    return m.h.value


@case(WIRING)
def tied_with_its_transpose(m, x):
    y = matmul(matmul(x, m.W.value), m.W.value.T)
    m.h.value = 0.5 * m.h.value + matmul(jnp.tanh(y), m.W.value)
    return m.h.value


@case(WIRING, exact='W')
def used_twice(m, x):
    m.h.value = 0.5 * m.h.value + matmul(x, m.W.value) + jnp.tanh(matmul(x**2, m.W.value))
    return m.h.value


# ---------------------------------------------------------------- states of one shape


@case(WIRING, exact='W a')
def chain_of_new_values(m, x):
    m.h.value = 0.5 * m.h.value + matmul(x, m.W.value)
    m.g.value = 0.7 * m.g.value + m.h.value * jax.nn.sigmoid(element_wise(m.a.value))
    return m.g.value * m.h.value


@case(WIRING, exact='W V')
def crossed(m, x):
    h, g = m.h.value, m.g.value
    m.h.value, m.g.value = 0.5 * g + matmul(x, m.W.value), 0.7 * h + matmul(x, m.V.value)
    return m.g.value * m.h.value


@case(WIRING, exact='W')
def written_three_times(m, x):
    before = m.h.value
    m.h.value = 0.5 * m.h.value
    m.h.value = m.h.value + matmul(x, m.W.value)
    m.h.value = jnp.tanh(m.h.value)
    return m.h.value + jnp.sin(before)


@case(WIRING, exact='W')
def copy_of_the_old(m, x):
    m.g.value = m.h.value
    m.h.value = 0.5 * m.h.value + matmul(x, m.W.value)
    return m.g.value * m.h.value


@case(WIRING, exact='W')
def copy_of_the_new(m, x):
    m.h.value = 0.5 * m.h.value + matmul(x, m.W.value)
    m.g.value = m.h.value
    return m.g.value * m.h.value


@case(WIRING, exact='W')
def never_written(m, x):
    m.h.value = 0.5 * m.h.value * jnp.cos(m.g.value) + matmul(x, m.W.value)
    return m.h.value


@case(WIRING, exact='W')
def latched_drive(m, x):
    """What a weight does is held for one step."""
    held, m.g.value = m.g.value, matmul(x, m.W.value)
    m.h.value = 0.5 * m.h.value + held
    return m.h.value


@case(WIRING, exact='W', setup=extra(held=lambda: hidden(2, 3, seed=13)))
def latched_input(m, x):
    before, m.held.value = m.held.value, x
    m.h.value = 0.5 * m.h.value + matmul(before, m.W.value)
    return m.h.value


@case(WIRING, exact='W a')
def state_from_a_parameter(m, x):
    m.g.value = jnp.broadcast_to(element_wise(m.a.value), (2, N))
    m.h.value = jnp.where(m.h.value > 0.5, m.g.value, 0.9 * m.h.value) + matmul(x, m.W.value)
    return m.h.value


@case(WIRING, exact='W')
def residual(m, x):
    y = matmul(x, m.W.value)
    m.h.value = m.h.value + 0.1 * jnp.tanh(m.h.value) + y
    return m.h.value + y


# a group is judged as a whole: nothing of `R` is lost, but something of `W` in the same group
@case(WIRING, loose='R')
def skip_beside_a_product(m, x):
    m.h.value = 0.5 * m.h.value + matmul(x, m.W.value)
    m.g.value = 0.5 * m.g.value + matmul(m.h.value, m.R.value) + m.h.value
    return m.g.value + m.h.value


# ---------------------------------------------------------------- states of several shapes


def populations(m):
    m.E, m.I = parameter(N, 3, seed=23), parameter(3, N, seed=24)


@case(WIRING, setup=extra(i=lambda: hidden(2, 3, seed=13)), weights=populations)
def two_populations(m, x):
    e, i = m.h.value, m.i.value
    m.h.value = jnp.tanh(0.5 * e + matmul(x, m.W.value) - matmul(i, m.I.value))
    m.i.value = jnp.tanh(0.4 * i + matmul(e, m.E.value))
    return m.h.value + m.i.value.sum(axis=-1, keepdims=True)


@case(WIRING)
def two_populations_of_one_size(m, x):
    e, i = m.h.value, m.g.value
    m.h.value = jnp.tanh(0.5 * e + matmul(x, m.W.value) - matmul(i, m.R.value))
    m.g.value = jnp.tanh(0.4 * i + matmul(x, m.V.value) + e * element_wise(m.a.value))
    return m.h.value * m.g.value


@case(WIRING, setup=extra(s=lambda: hidden(seed=13)))
def one_number_beside_neurons(m, x):
    m.s.value = 0.9 * m.s.value + 0.1 * m.h.value.mean()
    m.h.value = 0.8 * m.h.value + matmul(x, m.W.value) * m.s.value
    return m.h.value


@case(WIRING, exact='W', setup=extra(s=lambda: hidden(N, seed=13)))
def channels_beside_neurons(m, x):
    m.s.value = 0.9 * m.s.value + element_wise(m.a.value) * x[0, 0]
    m.h.value = 0.8 * m.h.value + matmul(x, m.W.value) * m.s.value
    return m.h.value


def stack():
    return brainstate.HiddenGroupState(values(2, N, 3, seed=13))


@case(WIRING, exact='W', setup=extra(s=stack))
def stacked_states(m, x):
    old, mixing, y = m.s.value, values(3, 3, seed=31), matmul(x, m.W.value)
    m.s.value = (old @ mixing + y[..., None] * jnp.arange(3.0)).at[..., 0].add(jnp.sin(y))
    return m.s.value[..., 2] * m.s.value[..., 0]


def tree():
    return brainstate.HiddenTreeState(
        {'v': values(2, N, seed=40) * u.mV, 'w': values(2, N, seed=41) * u.mS}
    )


@case(WIRING, exact='W', setup=extra(s=tree))
def states_with_units_in_a_tree(m, x):
    v, w = m.s.get_value('v'), m.s.get_value('w')
    w = 0.5 * w + matmul(x, m.W.value) * u.mS
    v = 0.9 * v + 0.1 * w / u.mS * u.mV
    m.s.set_value({'v': v, 'w': w})
    return v / u.mV


@case(WIRING, setup=extra(s=lambda: hidden(2, N, N, seed=13)))
def outer_products(m, x):
    """A state with more positions than what drives it: each result reaches several."""
    key, value = matmul(x, m.W.value), matmul(x, m.V.value)
    m.s.value = 0.9 * m.s.value + key[:, :, None] * value[:, None, :]
    return m.s.value.sum(axis=-1)


# ---------------------------------------------------------------- modules in modules


class Cell(brainstate.nn.Module):
    """A leaky cell with a weight of its own."""

    def __init__(self, seed):
        super().__init__()
        self.w = parameter(N, N, seed=seed)

    def init_state(self, *args, **kwargs):
        self.h = hidden(2, N, seed=50)

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.w.value)
        return jnp.tanh(self.h.value)


@case(WIRING, exact='after.a.w after.b.w')
class ListsAndDicts(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = [Cell(61)]
        self.after = {'a': Cell(63), 'b': Cell(64)}
        self.proj = values(3, N, seed=65)

    def update(self, x):
        y = x @ self.proj
        for cell in self.cells:
            y = y + jnp.sin(cell(y))
        return self.after['a'](y) + self.after['b'](y**2)


@case(WIRING, exact='one.w')
class OneCellTwice(brainstate.nn.Module):
    """The same cell under two names, called twice in a step."""

    def __init__(self):
        super().__init__()
        self.one = Cell(61)
        self.two = self.one
        self.proj = values(3, N, seed=65)

    def update(self, x):
        y = x @ self.proj
        return self.one(y) + self.two(y**2)


@case(WIRING, exact='a.w')
class TiedCells(brainstate.nn.Module):
    """Two cells that share a weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Cell(61), Cell(62)
        self.b.w = self.a.w
        self.proj = values(3, N, seed=65)

    def update(self, x):
        y = x @ self.proj
        return self.a(y) * self.b(jnp.sin(y))

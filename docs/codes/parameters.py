"""One model for every diagnostic about parameters, operators and hidden states.

A class named after a code has that record, and the one with `Cured` behind it has not. Their
docstrings are the text of the page.
"""

import brainstate
import jax
import jax.numpy as jnp
from cell import Cell

from etrace_compiler import element_wise, matmul


class ETC200(Cell):
    """`W` is marked, and what `matmul` makes of it reaches `h` unit by unit."""

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value


class ETC201(Cell):
    """The weight of the second product is an array, which no optimiser finds."""

    def update(self, x):
        y = matmul(x, self.W.value) + matmul(x, jnp.ones((3, 4)))
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC201Cured(Cell):
    """If it is to stay fixed write the product with `@`, otherwise make it a parameter."""

    shapes = {'W': (3, 4), 'V': (3, 4)}

    def update(self, x):
        y = matmul(x, self.W.value) + matmul(x, self.V.value)
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC202(Cell):
    """A readout. It acts on no later step, so there is nothing for a trace to keep."""

    shapes = {'W': (3, 4), 'readout': (4, 2)}

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return matmul(self.h.value, self.readout.value)


class ETC203(Cell):
    """Behind `W` stands a second product, and only then comes a state.

    A unit of the first layer acts on all units of `h`. A trace of `W` would need an entry for
    each weight *and* each unit of `h`.
    """

    shapes = {'W': (3, 4), 'V': (4, 4)}

    def update(self, x):
        y = jnp.tanh(matmul(x, self.W.value))
        self.h.value = 0.5 * self.h.value + matmul(y, self.V.value)
        return self.h.value


class ETC203Cured(Cell):
    """With a state of its own the first layer has traces of its own.

    That is another model: a layer that remembers. To keep the model as it is, learn with
    `vjp_method='multi-step'`.
    """

    shapes = {'W': (3, 4), 'V': (4, 4)}

    def init_state(self, batch_size=None):
        super().init_state()
        self.r = brainstate.HiddenState(jnp.zeros(4))

    def update(self, x):
        self.r.value = 0.5 * self.r.value + matmul(x, self.W.value)
        y = matmul(jnp.tanh(self.r.value), self.V.value)
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC204(Cell):
    """`y` reaches `h` in two ways, and the one through the mean leads to all units."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + y - jnp.mean(y)
        return self.h.value


class ETC204Cured(Cell):
    """Mixing in front of the weight is harmless. This is another model, though."""

    def update(self, x):
        y = matmul(x - jnp.mean(x), self.W.value)
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC205(Cell):
    """The weight is another one at every step, since it is scaled by the input.

    A trace tells how the state depends on *one* weight over all steps so far.
    """

    def update(self, x):
        weight = self.W.value * jax.nn.sigmoid(x[0])
        self.h.value = 0.5 * self.h.value + matmul(x, weight)
        return self.h.value


class ETC205Cured(Cell):
    """Scaling the input instead is the same in numbers, and the weight is the parameter."""

    def update(self, x):
        x = x * jax.nn.sigmoid(x[0])
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value


class ETC206(Cell):
    """Both parameters are used by ordinary operations: a product with `@`, and a `*`.

    They get the gradient of every single step, and no credit for what they did to earlier ones.
    """

    shapes = {'W': (3, 4), 'leak': (4,)}

    def update(self, x):
        leak = jax.nn.sigmoid(self.leak.value)
        self.h.value = leak * self.h.value + x @ self.W.value
        return self.h.value


class ETC206Cured(Cell):
    """Operators mark a parameter. The values are the same."""

    shapes = {'W': (3, 4), 'leak': (4,)}

    def update(self, x):
        leak = jax.nn.sigmoid(element_wise(self.leak.value))
        self.h.value = leak * self.h.value + matmul(x, self.W.value)
        return self.h.value


class ETC207(Cell):
    """A readout with `@` is as good as a marked one, since it acts on no later step."""

    shapes = {'W': (3, 4), 'readout': (4, 2)}

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value @ self.readout.value


class ETC208(Cell):
    """No derivative comes back through `stop_gradient`, so `W` never changes.

    The same record tells of a parameter that the step does not read, or whose result is thrown
    away.
    """

    def update(self, x):
        y = jax.lax.stop_gradient(matmul(x, self.W.value))
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC208Cured(Cell):
    """Without it the derivative finds its way."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC210(Cell):
    """Recurrent weights: every unit acts on all others in the next step.

    To follow this a trace would need an entry for each weight and each unit. That it does not is
    the price of learning online with a trace of the size of the weights. `W` and `R` still have
    traces, of what each unit does to itself.
    """

    shapes = {'W': (3, 4), 'R': (4, 4)}

    def update(self, x):
        y = matmul(x, self.W.value) + matmul(self.h.value, self.R.value)
        self.h.value = 0.5 * self.h.value + jnp.tanh(y)
        return self.h.value


class ETC211(Cell):
    """The place of an element after sorting depends on all of them.

    The same record tells of an operation with a derivative rule of its own that may not keep
    positions apart.
    """

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + 0.1 * jnp.sort(self.h.value) + y
        return self.h.value


class ETC212(Cell):
    """`h` reads what `c` has just become: two states at every position."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.c = brainstate.HiddenState(jnp.zeros(4))

    def update(self, x):
        self.c.value = 0.9 * self.c.value + matmul(x, self.W.value)
        self.h.value = 0.5 * self.h.value + jnp.tanh(self.c.value)
        return self.h.value


class ETC213(Cell):
    """A counter of refractory steps. Integers have no derivative."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.rest = brainstate.HiddenState(jnp.zeros(4, int))

    def update(self, x):
        fires = self.h.value > 1
        self.rest.value = jnp.where(
            fires, 3, jnp.maximum(self.rest.value - 1, 0)
        )
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        return self.h.value


class ETC214(Cell):
    """Two layers with a state each.

    `V` is exact. What `W` did to `h` is followed, and what that did to `r` in earlier steps is not.
    """

    shapes = {'W': (3, 4), 'V': (4, 4)}

    def init_state(self, batch_size=None):
        super().init_state()
        self.r = brainstate.HiddenState(jnp.zeros(4))

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        y = matmul(jnp.tanh(self.h.value), self.V.value)
        self.r.value = 0.5 * self.r.value + y
        return self.r.value


class ETC215(Cell):
    """A running mean that remembers what `W` did, and is no hidden state."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.mean = brainstate.ShortTermState(jnp.zeros(4))

    def update(self, x):
        y = matmul(x, self.W.value)
        self.mean.value = 0.9 * self.mean.value + 0.1 * y
        self.h.value = 0.5 * self.h.value + y - self.mean.value
        return self.h.value


class ETC215Cured(ETC215):
    """As a `HiddenState` it shares a group with `h`, and the trace follows both."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.mean = brainstate.HiddenState(jnp.zeros(4))


class ETC216(Cell):
    """An output that comes three steps late."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.line = brainstate.HiddenState(jnp.zeros((3, 4)))

    def update(self, x):
        self.h.value = 0.5 * self.h.value + matmul(x, self.W.value)
        kept = self.line.value[:-1]
        self.line.value = jnp.concatenate([self.h.value[None], kept])
        return self.line.value[-1]


class ETC217(ETC216):
    """The same with a delay of forty steps, which is more than the 32 that are followed."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.line = brainstate.HiddenState(jnp.zeros((40, 4)))


class ETC217Cured(ETC216):
    """A shorter line is followed."""

    def init_state(self, batch_size=None):
        super().init_state()
        self.line = brainstate.HiddenState(jnp.zeros((8, 4)))

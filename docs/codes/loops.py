"""One model for every diagnostic about loops and branches; see `parameters.py`."""

import jax
import jax.numpy as jnp
from cell import Cell

from etrace_compiler import ControlFlowPolicy, matmul

#: What the examples are compiled with, by name, where it is not the default.
POLICIES = {
    'ETC301': ControlFlowPolicy(
        scan_descent='off', etp_in_control_flow='exclude'
    ),
    'ETC304': ControlFlowPolicy(scan_descent='off'),
    'ETC306': ControlFlowPolicy(cond='opaque'),
}


class ETC301(Cell):
    """A loop that was left as one operation has no place for a trace inside.

    By default such a model is refused, and the record is part of the error.
    """

    input_shape = (20, 3)

    def update(self, xs):
        def substep(h, x):
            return 0.9 * h + matmul(x, self.W.value), None

        self.h.value, _ = jax.lax.scan(substep, self.h.value, xs)
        return self.h.value


class ETC301Cured(ETC301):
    """The default policy follows the loop, and the model stays as it is."""


class ETC302(Cell):
    """Nobody knows how many steps a `while` loop makes, so JAX cannot go back through it.

    A parameter inside would have no gradient. The model is refused.
    """

    def update(self, x):
        def substep(y):
            return y + x @ self.W.value

        def is_small(y):
            return jnp.all(jnp.abs(y) < 3)

        y = jax.lax.while_loop(is_small, substep, x[0] * jnp.ones(4))
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC302Cured(Cell):
    """A loop of at most five steps that changes nothing any more once it is done."""

    def update(self, x):
        def substep(_, y):
            is_small = jnp.all(jnp.abs(y) < 3)
            return jnp.where(is_small, y + matmul(x, self.W.value), y)

        y = jax.lax.fori_loop(0, 5, substep, x[0] * jnp.ones(4))
        self.h.value = 0.5 * self.h.value + y
        return self.h.value


class ETC303(Cell):
    """The state is halved until it is small. The loop hands on its value, and no derivative."""

    def update(self, x):
        small = jax.lax.while_loop(
            lambda h: jnp.any(jnp.abs(h) > 1), lambda h: h / 2, self.h.value
        )
        decayed = 0.5 * self.h.value + 0.1 * small
        self.h.value = decayed + matmul(x, self.W.value)
        return self.h.value


class ETC303Cured(Cell):
    """The same in five steps at most, unit by unit."""

    def update(self, x):
        def halve(_, h):
            return jnp.where(jnp.abs(h) > 1, h / 2, h)

        small = jax.lax.fori_loop(0, 5, halve, self.h.value)
        decayed = 0.5 * self.h.value + 0.1 * small
        self.h.value = decayed + matmul(x, self.W.value)
        return self.h.value


class ETC304(Cell):
    """A loop that is left as one operation might do anything to the state."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = jax.lax.fori_loop(
            0, 30, lambda _, h: 0.9 * h + y, self.h.value
        )
        return self.h.value


class ETC304Cured(ETC304):
    """The default policy follows what happens inside, and the model stays as it is."""


class ETC305(Cell):
    """The state decays in one of two ways. Both are computed."""

    def update(self, x):
        h = jax.lax.cond(x[0] > 0, jnp.tanh, lambda h: 0.5 * h, self.h.value)
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


class ETC306(Cell):
    """Here the policy asks for it.

    A branch that calls back for a result (`io_callback`) is left as it is under any policy,
    since it must not run where it is not taken.
    """

    def update(self, x):
        h = jax.lax.cond(x[0] > 0, jnp.tanh, lambda h: 0.5 * h, self.h.value)
        self.h.value = h + matmul(x, self.W.value)
        return self.h.value


class ETC306Cured(ETC306):
    """The default policy computes both branches and selects."""


class ETC307(Cell):
    """Three substeps, written out."""

    def update(self, x):
        y = matmul(x, self.W.value)
        self.h.value = jax.lax.fori_loop(
            0, 3, lambda _, h: 0.9 * h + y, self.h.value
        )
        return self.h.value


class ETC308(Cell):
    """Twenty inputs, each by itself."""

    input_shape = (20, 3)

    def update(self, xs):
        y = jax.lax.map(lambda x: jnp.tanh(matmul(x, self.W.value)), xs)
        self.h.value = 0.5 * self.h.value + jnp.sum(y, axis=0)
        return self.h.value


class ETC309(Cell):
    """Twenty substeps with an input each. `W` has one trace."""

    input_shape = (20, 3)

    def update(self, xs):
        def substep(h, x):
            return 0.9 * h + matmul(x, self.W.value), None

        self.h.value, _ = jax.lax.scan(substep, self.h.value, xs)
        return self.h.value


class ETC310(Cell):
    """Every substep has a weight of its own, a slice of `W`.

    The record also tells of a loop that is not followed because of `scan_descent='off'`.
    """

    shapes = {'W': (20, 3, 4)}

    def update(self, x):
        def substep(h, weight):
            return 0.9 * h + matmul(x, weight), None

        self.h.value, _ = jax.lax.scan(substep, self.h.value, self.W.value)
        return self.h.value


class ETC310Cured(Cell):
    """One weight for all substeps has one trace."""

    def update(self, x):
        def substep(h, scale):
            return 0.9 * h + scale * matmul(x, self.W.value), None

        scales = jnp.linspace(0, 1, 20)
        self.h.value, _ = jax.lax.scan(substep, self.h.value, scales)
        return self.h.value

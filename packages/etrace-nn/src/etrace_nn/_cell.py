"""What recurrent cells have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_nn._layer import StatefulLayer
from etrace_nn._values import as_activation, check_input, joined

__all__ = ['Cell', 'GRUStep']


class Cell(StatefulLayer, brainstate.nn.RNNCell):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A cell: sizes, an activation, and hidden states, of which `h` is the first."""

    activation: Callable[[Any], Any]

    def __init__(
        self,
        num_in: int,
        num_out: int,
        state_init: Callable | Any,
        activation: str | Callable[[Any], Any] | None,
        name: str | None,
        states: Sequence[str] = ('h',),
    ):
        super().__init__(name=name)
        self.num_in, self.num_out = num_in, num_out
        self.in_size, self.out_size = (num_in,), (num_out,)
        if activation is not None:
            self.activation = as_activation(activation)
        self._hold((num_out,), dict.fromkeys(states, state_init), 'state_init')


class GRUStep(Cell):
    """The step of gated recurrent units, with whatever products `Wrz` and `Wh` are."""

    Wrz: Callable[[Any], Any]
    Wh: Callable[[Any], Any]

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        gates = jax.lax.logistic(self.Wrz(joined(x, h)))
        reset, update = jnp.split(gates, 2, axis=-1)
        candidate = self.activation(self.Wh(joined(x, reset * h)))
        self.h.value = (1 - update) * h + update * candidate
        return self.h.value

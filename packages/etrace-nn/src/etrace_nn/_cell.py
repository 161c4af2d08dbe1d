"""What recurrent cells have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate

from etrace_nn._layer import StatefulLayer
from etrace_nn._values import as_activation

__all__ = ['Cell']


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

"""Recurrent cells: one step of a network of rates."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_nn._layer import Layer
from etrace_nn._values import BatchSize, as_activation, check_input, initial_value, joined
from etrace_nn.linear import Linear

__all__ = ['GRUCell', 'LSTMCell', 'ValinaRNNCell', 'VanillaRNNCell']


class _Cell(Layer, brainstate.nn.RNNCell):  # pyright: ignore[reportIncompatibleVariableOverride]
    """What all cells have: sizes, an activation and the hidden state `h`."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        state_init: Callable | Any,
        activation: str | Callable[[Any], Any],
        name: str | None,
    ):
        super().__init__(name=name)
        self.num_in, self.num_out = num_in, num_out
        self.in_size, self.out_size = (num_in,), (num_out,)
        self.activation = as_activation(activation)
        self._state_init = state_init

    def _initial(self, batch_size: BatchSize) -> Any:
        return initial_value(self._state_init, self.out_size, 'state_init', batch_size)

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden state."""
        self.h = brainstate.HiddenState(self._initial(batch_size))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden state to its initial value."""
        self.h.value = self._initial(batch_size)


class ValinaRNNCell(_Cell):
    r"""Do one step of a plain recurrent network.

    $$h_t = \phi([x_t, h_{t-1}]\, W + b)$$

    The hidden state is `h`; the parameters are `W.weight` of shape `(in + out, out)` and its
    bias. Also known as `VanillaRNNCell`.

    **Shapes**: `x (..., in) -> h (..., out)`.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        state_init: Initial state: a function of the shape, or a value.
        w_init: Initial weight.
        b_init: Initial bias.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Elman (1990). Finding structure in time. Cognitive Science 14(2).

    Example:
        >>> import jax.numpy as jnp
        >>> cell = ValinaRNNCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 3)
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        w_init: Callable | Any = init.XavierNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'relu',
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, activation, name)
        self.W = Linear(num_in + num_out, num_out, w_init=w_init, b_init=b_init)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        self.h.value = self.activation(self.W(joined(x, h)))
        return self.h.value


VanillaRNNCell = ValinaRNNCell


class GRUCell(_Cell):
    r"""Do one step of gated recurrent units.

    $$\begin{aligned}
    [r_t, z_t] &= \sigma([x_t, h_{t-1}]\, W_{rz} + b_{rz}) \\
    \tilde h_t &= \phi([x_t, r_t \odot h_{t-1}]\, W_h + b_h) \\
    h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `Wrz.weight` of shape `(in + out, 2 out)` and
    `Wh.weight` of shape `(in + out, out)`, each with its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weights.
        b_init: Initial biases.
        state_init: Initial state: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Cho et al. (2014). Learning phrase representations using RNN encoder-decoder for
        statistical machine translation. EMNLP.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = GRUCell(2, 3)
        >>> cell.init_state()
        >>> cell(jnp.ones(2)).shape
        (3,)
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Callable | Any = init.Orthogonal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, activation, name)
        self.Wrz = Linear(num_in + num_out, num_out * 2, w_init=w_init, b_init=b_init)
        self.Wh = Linear(num_in + num_out, num_out, w_init=w_init, b_init=b_init)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        gates = jax.nn.sigmoid(self.Wrz(joined(x, h)))
        reset, update = jnp.split(gates, 2, axis=-1)
        candidate = self.activation(self.Wh(joined(x, reset * h)))
        self.h.value = (1 - update) * h + update * candidate
        return self.h.value


class LSTMCell(_Cell):
    r"""Do one step of long short-term memory.

    $$\begin{aligned}
    [i, g, f, o] &= [x_t, h_{t-1}]\, W + b \\
    c_t &= \sigma(f + 1) \odot c_{t-1} + \sigma(i) \odot \phi(g) \\
    h_t &= \sigma(o) \odot \phi(c_t)
    \end{aligned}$$

    The hidden states are `h` and `c`; the parameters are `W.weight` of shape
    `(in + out, 4 out)` and its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weight.
        b_init: Initial bias, beside the 1 that keeps the forget gate open.
        state_init: Initial states: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Hochreiter, Schmidhuber (1997). Long short-term memory. Neural Computation 9(8).
        Jozefowicz, Zaremba, Sutskever (2015). An empirical exploration of recurrent network
        architectures. ICML.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = LSTMCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape, cell.c.value.shape
        ((4, 3), (4, 3))
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Callable | Any = init.XavierNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, activation, name)
        self.W = Linear(num_in + num_out, num_out * 4, w_init=w_init, b_init=b_init)

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden states."""
        super().init_state(batch_size)
        self.c = brainstate.HiddenState(self._initial(batch_size))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden states to their initial values."""
        super().reset_state(batch_size)
        self.c.value = self._initial(batch_size)

    def update(self, x: Any) -> Any:
        """Do one step and return the new `h`.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h, c = self.h.value, self.c.value
        check_input(x, self.in_size, self, h)
        gates = jnp.split(self.W(joined(x, h)), 4, axis=-1)
        write, content, keep, read = gates
        c = jax.nn.sigmoid(keep + 1) * c + jax.nn.sigmoid(write) * self.activation(content)
        h = jax.nn.sigmoid(read) * self.activation(c)
        self.h.value, self.c.value = h, c
        return h

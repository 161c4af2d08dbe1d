"""Recurrent cells: one step of a network of rates."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_compiler import element_wise
from etrace_nn._cell import Cell, GRUStep
from etrace_nn._values import check_input, joined
from etrace_nn.linear import Linear

__all__ = [
    'GRUCell',
    'LSTMCell',
    'MGUCell',
    'URLSTMCell',
    'ValinaRNNCell',
    'VanillaRNNCell',
]


class ValinaRNNCell(Cell):
    r"""Do one step of a plain recurrent network.

    $$h_t = \phi([x_t, h_{t-1}]\, W + b)$$

    The hidden state is `h`; the parameters are `W.weight` of shape `(in + out, out)` and its
    bias. Also known as `VanillaRNNCell`.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

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


class GRUCell(GRUStep):
    r"""Do one step of gated recurrent units.

    $$\begin{aligned}
    [r_t, z_t] &= \sigma([x_t, h_{t-1}]\, W_{rz} + b_{rz}) \\
    \tilde h_t &= \phi([x_t, r_t \odot h_{t-1}]\, W_h + b_h) \\
    h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `Wrz.weight` of shape `(in + out, 2 out)` and
    `Wh.weight` of shape `(in + out, out)`, each with its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

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


class MGUCell(Cell):
    r"""Do one step of minimal gated units: a GRU with a single gate.

    $$\begin{aligned}
    f_t &= \sigma([x_t, h_{t-1}]\, W_f + b_f) \\
    \tilde h_t &= \phi([x_t, f_t \odot h_{t-1}]\, W_h + b_h) \\
    h_t &= (1 - f_t) \odot h_{t-1} + f_t \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `Wf.weight` and `Wh.weight` of shape
    `(in + out, out)`, each with its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weights.
        b_init: Initial biases.
        state_init: Initial state: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Zhou, Wu, Zhang, Zhou (2016). Minimal gated unit for recurrent neural networks.
        International Journal of Automation and Computing 13(3).

    Example:
        >>> import jax.numpy as jnp
        >>> cell = MGUCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 3)
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
        self.Wf = Linear(num_in + num_out, num_out, w_init=w_init, b_init=b_init)
        self.Wh = Linear(num_in + num_out, num_out, w_init=w_init, b_init=b_init)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        gate = jax.lax.logistic(self.Wf(joined(x, h)))
        candidate = self.activation(self.Wh(joined(x, gate * h)))
        self.h.value = (1 - gate) * h + gate * candidate
        return self.h.value


class LSTMCell(Cell):
    r"""Do one step of long short-term memory.

    $$\begin{aligned}
    [i, g, f, o] &= [x_t, h_{t-1}]\, W + b \\
    c_t &= \sigma(f + 1) \odot c_{t-1} + \sigma(i) \odot \phi(g) \\
    h_t &= \sigma(o) \odot \phi(c_t)
    \end{aligned}$$

    The hidden states are `h` and `c`; the parameters are `W.weight` of shape
    `(in + out, 4 out)` and its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

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
        super().__init__(num_in, num_out, state_init, activation, name, ('h', 'c'))
        self.W = Linear(num_in + num_out, num_out * 4, w_init=w_init, b_init=b_init)

    def update(self, x: Any) -> Any:
        """Do one step and return the new `h`.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h, c = self.h.value, self.c.value
        check_input(x, self.in_size, self, h)
        gates = jnp.split(self.W(joined(x, h)), 4, axis=-1)
        write, content, keep, read = gates
        c = jax.lax.logistic(keep + 1) * c + jax.lax.logistic(write) * self.activation(content)
        h = jax.lax.logistic(read) * self.activation(c)
        self.h.value, self.c.value = h, c
        return h


class URLSTMCell(Cell):
    r"""Do one step of an LSTM with uniform gate initialisation and refine gates.

    $$\begin{aligned}
    [f, r, u, o] &= [x_t, h_{t-1}]\, W \\
    g_t &= 2\, \hat r \odot \hat f + (1 - 2 \hat r) \odot \hat f^2, \qquad
    \hat f = \sigma(f + b), \quad \hat r = \sigma(r - b) \\
    c_t &= g_t \odot c_{t-1} + (1 - g_t) \odot \phi(u) \\
    h_t &= \sigma(o) \odot \phi(c_t)
    \end{aligned}$$

    The hidden states are `h` and `c`; the parameters are `W.weight` of shape
    `(in + out, 4 out)` and `bias` of shape `(out,)`, which makes $\hat f$ uniform at first.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units, at least 2.
        w_init: Initial weight.
        state_init: Initial states: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Gu, Gulcehre, Paine, Hoffman, Pascanu (2020). Improving the gating mechanism of
        recurrent neural networks. ICML.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = URLSTMCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape, cell.c.value.shape
        ((4, 3), (4, 3))
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Callable | Any = init.XavierNormal(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, activation, name, ('h', 'c'))
        self.W = Linear(num_in + num_out, num_out * 4, w_init=w_init, b_init=None)
        uniform = brainstate.random.uniform(1 / num_out, 1 - 1 / num_out, (num_out,))
        self.bias = brainstate.ParamState(-jnp.log(1 / uniform - 1))

    def update(self, x: Any) -> Any:
        """Do one step and return the new `h`.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h, c = self.h.value, self.c.value
        check_input(x, self.in_size, self, h)
        bias = element_wise(self.bias.value)
        forget, refine, content, read = jnp.split(self.W(joined(x, h)), 4, axis=-1)
        forget, refine = jax.lax.logistic(forget + bias), jax.lax.logistic(refine - bias)
        keep = 2 * refine * forget + (1 - 2 * refine) * forget**2
        c = keep * c + (1 - keep) * self.activation(content)
        h = jax.lax.logistic(read) * self.activation(c)
        self.h.value, self.c.value = h, c
        return h

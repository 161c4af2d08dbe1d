"""Gated cells that `brainstate.nn` does not have."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_compiler import element_wise
from etrace_nn._cell import Cell
from etrace_nn._values import check_input, joined
from etrace_nn.linear import Linear

__all__ = ['CFNCell', 'LayerNormGRUCell', 'MinimalRNNCell']


class MinimalRNNCell(Cell):
    r"""Do one step of a minimal recurrent network: one gate over an embedded input.

    $$\begin{aligned}
    z_t &= \phi(x_t W_x + b_x) \\
    u_t &= \sigma([h_{t-1}, z_t]\, W_u + b_u) \\
    h_t &= u_t \odot h_{t-1} + (1 - u_t) \odot z_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `Wx.weight` of shape `(in, out)` and `Wu.weight`
    of shape `(2 out, out)`, each with its bias.

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
        Chen (2017). MinimalRNN: toward more interpretable and trainable recurrent neural
        networks. arXiv:1711.06788.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = MinimalRNNCell(2, 3)
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
        self.Wx = Linear(num_in, num_out, w_init=w_init, b_init=b_init)
        self.Wu = Linear(2 * num_out, num_out, w_init=w_init, b_init=b_init)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        z = self.activation(self.Wx(x))
        keep = jax.nn.sigmoid(self.Wu(joined(h, z)))
        self.h.value = keep * h + (1 - keep) * z
        return self.h.value


class CFNCell(Cell):
    r"""Do one step of a chaos-free network.

    $$\begin{aligned}
    [\theta_t, \eta_t] &= \sigma([x_t, h_{t-1}]\, W_g + b_g) \\
    h_t &= \theta_t \odot \phi(h_{t-1}) + \eta_t \odot \phi(x_t W_x)
    \end{aligned}$$

    The hidden state is `h`; the parameters are `Wg.weight` of shape `(in + out, 2 out)` with its
    bias and `Wx.weight` of shape `(in, out)`. Without input the state decays to zero.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weights.
        b_init: Initial bias of the gates.
        state_init: Initial state: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    References:
        Laurent, von Brecht (2017). A recurrent neural network without chaos. ICLR.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = CFNCell(2, 3)
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
        self.Wg = Linear(num_in + num_out, 2 * num_out, w_init=w_init, b_init=b_init)
        self.Wx = Linear(num_in, num_out, w_init=w_init, b_init=None)

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        keep, write = jnp.split(jax.nn.sigmoid(self.Wg(joined(x, h))), 2, axis=-1)
        self.h.value = keep * self.activation(h) + write * self.activation(self.Wx(x))
        return self.h.value


class LayerNormGRUCell(Cell):
    r"""Do one step of gated recurrent units whose gates are normalised over the units.

    $$\begin{aligned}
    [r_t, z_t] &= \sigma\big(N([x_t, h_{t-1}]\, W_{rz})\big) \\
    \tilde h_t &= \phi\big(N([x_t, r_t \odot h_{t-1}]\, W_h)\big) \\
    h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot \tilde h_t, \qquad
    N(a) = \gamma \odot \frac{a - \mathrm{mean}(a)}{\sqrt{\mathrm{var}(a) + \epsilon}} + \beta
    \end{aligned}$$

    Mean and variance run over the `out` units of a gate. The hidden state is `h`; the parameters
    are `Wrz.weight` of shape `(in + out, 2 out)`, `Wh.weight` of shape `(in + out, out)`, and
    `gain` and `bias`, $\gamma$ and $\beta$ of the three gates, of shape `(3 out,)`.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: approximate; the recurrent weights mix positions, and so does the norm.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weights.
        state_init: Initial state: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        epsilon: What keeps the norm finite, $\epsilon$.
        name: Name of the module.

    References:
        Ba, Kiros, Hinton (2016). Layer normalization. arXiv:1607.06450.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = LayerNormGRUCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 3)
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Callable | Any = init.Orthogonal(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        epsilon: float = 1e-5,
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, activation, name)
        self.Wrz = Linear(num_in + num_out, num_out * 2, w_init=w_init, b_init=None)
        self.Wh = Linear(num_in + num_out, num_out, w_init=w_init, b_init=None)
        self.epsilon = epsilon
        ones = jnp.ones(3 * num_out, self.Wh.weight.value['weight'].dtype)
        self.gain = brainstate.ParamState(ones)
        self.bias = brainstate.ParamState(jnp.zeros_like(ones))

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        gain = jnp.split(element_wise(self.gain.value), 3)
        bias = jnp.split(element_wise(self.bias.value), 3)
        reset, update = jnp.split(self.Wrz(joined(x, h)), 2, axis=-1)
        reset = jax.nn.sigmoid(gain[0] * self._normal(reset) + bias[0])
        update = jax.nn.sigmoid(gain[1] * self._normal(update) + bias[1])
        candidate = self._normal(self.Wh(joined(x, reset * h)))
        candidate = self.activation(gain[2] * candidate + bias[2])
        self.h.value = (1 - update) * h + update * candidate
        return self.h.value

    def _normal(self, a: Any) -> Any:
        return jax.nn.standardize(a, epsilon=self.epsilon)

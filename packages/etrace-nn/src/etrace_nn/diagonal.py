"""Cells whose state at each position depends on no other position.

Without recurrent weights that mix positions nothing is cut, and the online gradient is that of
backpropagation through time, at every length.
"""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_compiler import element_wise, matmul
from etrace_nn._cell import Cell
from etrace_nn._spectrum import log_uniform, ring
from etrace_nn._values import check_input, initial_value, joined
from etrace_nn.linear import Linear

__all__ = ['MiniGRU', 'MiniLSTM', 'RTUCell', 'SelectiveCell']


class _InputGated(Cell):
    """A cell of which every part is a product of the input alone."""

    _parts: int

    def __init__(
        self,
        num_in: int,
        num_out: int,
        w_init: Callable | Any = init.Orthogonal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, None, name)
        self.W = Linear(num_in, self._parts * num_out, w_init=w_init, b_init=b_init)

    def _split(self, x: Any) -> list[Any]:
        """Return the parts, of the shape of the state each."""
        check_input(x, self.in_size, self, self.h.value)
        return jnp.split(self.W(x), self._parts, axis=-1)


class MiniGRU(_InputGated):
    r"""Do one step of gated recurrent units whose gates see the input alone.

    $$\begin{aligned}
    [z_t, \tilde h_t] &= x_t W + b \\
    h_t &= (1 - \sigma(z_t)) \odot h_{t-1} + \sigma(z_t) \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `W.weight` of shape `(in, 2 out)` and its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: exact at every length.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weight.
        b_init: Initial bias.
        state_init: Initial state: a function of the shape, or a value.
        name: Name of the module.

    References:
        Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024). Were RNNs all we needed?
        arXiv:2410.01201.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = MiniGRU(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 3)
    """

    _parts = 2

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        gate, candidate = self._split(x)
        gate = jax.nn.sigmoid(gate)
        self.h.value = (1 - gate) * h + gate * candidate
        return self.h.value


class MiniLSTM(_InputGated):
    r"""Do one step of long short-term memory whose gates see the input alone.

    $$\begin{aligned}
    [f_t, i_t, \tilde h_t] &= x_t W + b, \qquad
    \hat f_t = \frac{\sigma(f_t)}{\sigma(f_t) + \sigma(i_t)} \\
    h_t &= \hat f_t \odot h_{t-1} + (1 - \hat f_t) \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h`; the parameters are `W.weight` of shape `(in, 3 out)` and its bias.

    **Shapes**: `x (..., in) -> h (..., out)`.

    **Exactness**: exact at every length.

    Args:
        num_in: Number of inputs.
        num_out: Number of hidden units.
        w_init: Initial weight.
        b_init: Initial bias.
        state_init: Initial state: a function of the shape, or a value.
        name: Name of the module.

    References:
        Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024). Were RNNs all we needed?
        arXiv:2410.01201.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = MiniLSTM(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 3)
    """

    _parts = 3

    def update(self, x: Any) -> Any:
        """Do one step and return the new state.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        forget, write, candidate = self._split(x)
        # the quotient of two sigmoids, which does not divide zero by zero
        keep = jax.nn.sigmoid(jax.nn.softplus(-write) - jax.nn.softplus(-forget))
        self.h.value = keep * h + (1 - keep) * candidate
        return self.h.value


class RTUCell(Cell):
    r"""Do one step of recurrent trace units: rotating, decaying pairs of real states.

    With $r = e^{-e^{\nu}}$, $\omega = e^{\theta}$, $\gamma = \sqrt{1 - r^2}$ and
    $[u_t, v_t] = \gamma \odot x_t W$,

    $$\begin{aligned}
    a_t &= r \cos\omega \odot a_{t-1} - r \sin\omega \odot b_{t-1} + u_t \\
    b_t &= r \cos\omega \odot b_{t-1} + r \sin\omega \odot a_{t-1} + v_t
    \end{aligned}$$

    The output is $\phi([a_t, b_t])$; with `nonlinear` the states themselves are passed through
    $\phi$. The hidden states are `h`, which is $a$, and `k`, which is $b$. The parameters are
    `nu_log` and `theta_log` of shape `(hidden,)` and `W.weight` of shape `(in, 2 hidden)`.

    **Shapes**: `x (..., in) -> y (..., 2 hidden)`.

    **Exactness**: exact at every length.

    Args:
        num_in: Number of inputs.
        num_hidden: Number of pairs of states.
        w_init: Initial weight.
        state_init: Initial states: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        nonlinear: Whether $\phi$ is part of the recurrence.
        r_min: Smallest initial radius $r$.
        r_max: Largest initial radius.
        max_phase: Largest initial angle $\omega$.
        name: Name of the module.

    References:
        Elelimy, White, Bowling, White (2024). Real-time recurrent learning using trace units
        in reinforcement learning. NeurIPS 37.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = RTUCell(2, 3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape
        (4, 6)
    """

    def __init__(
        self,
        num_in: int,
        num_hidden: int,
        w_init: Callable | Any = init.LecunNormal(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        nonlinear: bool = False,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        name: str | None = None,
    ):
        super().__init__(num_in, num_hidden, state_init, activation, name, ('h', 'k'))
        self.out_size = (2 * num_hidden,)
        self.nonlinear = nonlinear
        nu_log, theta_log = ring(num_hidden, r_min, r_max, max_phase)
        self.nu_log = brainstate.ParamState(nu_log)
        self.theta_log = brainstate.ParamState(theta_log)
        self.W = Linear(num_in, 2 * num_hidden, w_init=w_init, b_init=None)

    def update(self, x: Any) -> Any:
        """Do one step and return the output.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        a, b = self.h.value, self.k.value
        check_input(x, self.in_size, self, a)
        angles = (self.nu_log.value, self.theta_log.value)
        cosine, sine, gamma = jnp.split(element_wise(angles, weight_fn=_rotation), 3)
        drive_a, drive_b = jnp.split(self.W(x), 2, axis=-1)
        a, b = (
            cosine * a - sine * b + gamma * drive_a,
            cosine * b + sine * a + gamma * drive_b,
        )
        if self.nonlinear:
            a, b = self.activation(a), self.activation(b)
        self.h.value, self.k.value = a, b
        pair = joined(a, b)
        return pair if self.nonlinear else self.activation(pair)


def _rotation(parameters: tuple[Any, Any]) -> Any:
    """Return `r cos w`, `r sin w` and the scale of the input, one after the other."""
    nu_log, theta_log = parameters
    nu, angle = jnp.exp(nu_log), jnp.exp(theta_log)
    radius = jnp.exp(-nu)
    gamma = jnp.sqrt(-jnp.expm1(-2 * nu))
    return jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle), gamma])


class SelectiveCell(Cell):
    r"""Do one step of a selective state space: what is kept and written depends on the input.

    Each of the `out` channels $d$ has `num_state` states $n$:

    $$\begin{aligned}
    u_t &= x_t W_u, \qquad \Delta_t = \mathrm{softplus}(x_t W_\Delta + b_\Delta), \qquad
    B_t = x_t W_B, \qquad C_t = x_t W_C \\
    h_t[d, n] &= e^{-\Delta_t[d]\, e^{A[d, n]}}\, h_{t-1}[d, n]
    + \Delta_t[d]\, B_t[n]\, u_t[d] \\
    y_t[d] &= \sum_n C_t[n]\, h_t[d, n] + D[d]\, u_t[d]
    \end{aligned}$$

    The hidden state is `h` of shape `(out * num_state,)`, channels first. The parameters are
    `Wu`, `Wdt`, `WB`, `WC`, `dt_bias`, `A_log` and `D`.

    A weight whose result is shared by several states is repeated for them, so that each of its
    traces belongs to one position: the trace has `in * out * num_state` entries per weight.

    **Shapes**: `x (..., in) -> y (..., out)`.

    **Exactness**: exact at every length.

    Args:
        num_in: Number of inputs.
        num_out: Number of channels.
        num_state: Number of states of each channel.
        w_init: Initial weights.
        state_init: Initial state: a function of the shape, or a value.
        dt_min: Smallest initial step $\Delta$ without input.
        dt_max: Largest initial step.
        name: Name of the module.

    References:
        Gu, Dao (2023). Mamba: linear-time sequence modeling with selective state spaces.
        arXiv:2312.00752.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = SelectiveCell(2, 3, num_state=5)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape, cell.h.value.shape
        ((4, 3), (4, 15))
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        num_state: int = 4,
        w_init: Callable | Any = init.LecunNormal(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        name: str | None = None,
    ):
        super().__init__(num_in, num_out, state_init, None, name)
        self.num_state = num_state
        self._hold((num_out * num_state,), {'h': state_init}, 'state_init')

        def weight(width: int) -> brainstate.ParamState:
            return brainstate.ParamState(initial_value(w_init, (num_in, width), 'w_init'))

        self.Wu, self.Wdt = weight(num_out), weight(num_out)
        self.WB, self.WC = weight(num_state), weight(num_state)
        step = log_uniform(num_out, dt_min, dt_max)
        self.dt_bias = brainstate.ParamState(step + jnp.log(-jnp.expm1(-step)))
        rates = jnp.tile(jnp.log(jnp.arange(1, num_state + 1, dtype=step.dtype)), num_out)
        self.A_log = brainstate.ParamState(rates)
        self.D = brainstate.ParamState(jnp.ones_like(step))

    def update(self, x: Any) -> Any:
        """Do one step and return the output.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h, n = self.h.value, self.num_state
        check_input(x, self.in_size, self, h)

        def for_states(value: Any) -> Any:
            return jnp.repeat(value, n, axis=-1)

        def for_channels(value: Any) -> Any:
            return jnp.tile(value, self.num_out)

        u = matmul(x, self.Wu.value, weight_fn=for_states)
        step = jax.nn.softplus(
            matmul(x, self.Wdt.value, self.dt_bias.value, weight_fn=for_states, bias_fn=for_states)
        )
        write = matmul(x, self.WB.value, weight_fn=for_channels)
        rate = element_wise(self.A_log.value, weight_fn=jnp.exp)
        self.h.value = jnp.exp(-step * rate) * h + step * write * u
        by_channel = self.h.value.reshape((*x.shape[:-1], self.num_out, n))
        read = (by_channel * matmul(x, self.WC.value)[..., None, :]).sum(axis=-1)
        return read + element_wise(self.D.value) * u[..., ::n]

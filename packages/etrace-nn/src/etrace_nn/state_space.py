"""Complex-diagonal linear recurrences: linear recurrent units and state-space models.

Every position decays and rotates by itself, so the online gradient is that of backpropagation
through time at every length. All parameters are real, as optimisers expect them; the complex
numbers that the recurrence needs are made of them on the way to the operators.
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
from etrace_nn._values import check_input, joined

__all__ = ['LRUCell', 'S5Cell']


class _ComplexDiagonal(Cell):
    """`h' = a h + b (x B)` with complex `h`, `a`, `b` and `B`; `y = [re h, im h] C + D x`."""

    def __init__(self, d_model: int, d_hidden: int, state_init: Callable | Any, name: str | None):
        super().__init__(d_model, d_model, state_init, None, name)
        self.d_model, self.d_hidden = d_model, d_hidden
        self._hold((d_hidden,), {'h': state_init}, 'state_init', jnp.complex64)

        def normal(*shape: int) -> Any:
            return init.Normal(1 / (2 * shape[0]) ** 0.5)(shape)

        self.B = brainstate.ParamState(
            {'real': normal(d_model, d_hidden), 'imag': normal(d_model, d_hidden)}
        )
        self.C = brainstate.ParamState(normal(2 * d_hidden, d_model))
        self.D = brainstate.ParamState(normal(1, d_model)[0])

    def _coefficients(self) -> tuple[Any, Any]:
        """Return the decay `a` and the scale `b` of the input, each marked."""
        raise NotImplementedError

    def update(self, x: Any) -> Any:
        """Do one step and return the output.

        Raises:
            ValueError: If the shape of the input does not fit.
        """
        h = self.h.value
        check_input(x, self.in_size, self, h)
        decay, scale = self._coefficients()
        h = decay * h + scale * matmul(x, self.B.value, weight_fn=_as_complex)
        self.h.value = h
        return matmul(joined(h.real, h.imag), self.C.value) + element_wise(self.D.value) * x


def _as_complex(parts: dict[str, Any]) -> Any:
    return jax.lax.complex(parts['real'], parts['imag'])


class LRUCell(_ComplexDiagonal):
    r"""Do one step of linear recurrent units.

    $$\begin{aligned}
    h_t &= \lambda \odot h_{t-1} + e^{\gamma} \odot x_t B, \qquad
    \lambda = \exp(-e^{\nu} + i\, e^{\theta}) \\
    y_t &= [\mathrm{Re}\, h_t, \mathrm{Im}\, h_t]\, C + D \odot x_t
    \end{aligned}$$

    The hidden state is the complex `h` of shape `(d_hidden,)`. The parameters, all real, are
    `nu_log`, `theta_log` and `gamma_log` of shape `(d_hidden,)`, the two parts of `B` of shape
    `(d_model, d_hidden)`, `C` of shape `(2 d_hidden, d_model)` and `D` of shape `(d_model,)`.

    **Shapes**: `x (..., d_model) -> y (..., d_model)`.

    **Exactness**: exact at every length.

    Args:
        d_model: Number of inputs and of outputs.
        d_hidden: Number of complex hidden units.
        r_min: Smallest initial modulus of $\lambda$.
        r_max: Largest initial modulus.
        max_phase: Largest initial angle.
        state_init: Initial state: a function of the shape, or a value.
        name: Name of the module.

    References:
        Orvieto et al. (2023). Resurrecting recurrent neural networks for long sequences. ICML.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = LRUCell(2, 8)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape, cell.h.value.dtype
        ((4, 2), dtype('complex64'))
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        name: str | None = None,
    ):
        super().__init__(d_model, d_hidden, state_init, name)
        nu_log, theta_log = ring(d_hidden, r_min, r_max, max_phase)
        self.nu_log = brainstate.ParamState(nu_log)
        self.theta_log = brainstate.ParamState(theta_log)
        self.gamma_log = brainstate.ParamState(0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu_log))))

    def _coefficients(self) -> tuple[Any, Any]:
        angles = (self.nu_log.value, self.theta_log.value)
        return (
            element_wise(angles, weight_fn=_eigenvalue),
            element_wise(self.gamma_log.value, weight_fn=jnp.exp),
        )


def _eigenvalue(parameters: tuple[Any, Any]) -> Any:
    nu_log, theta_log = parameters
    return jnp.exp(jax.lax.complex(-jnp.exp(nu_log), jnp.exp(theta_log)))


class S5Cell(_ComplexDiagonal):
    r"""Do one step of a diagonal state-space model with many inputs and outputs.

    $$\begin{aligned}
    h_t &= e^{\Lambda \Delta} \odot h_{t-1} + \frac{e^{\Lambda \Delta} - 1}{\Lambda} \odot x_t B,
    \qquad \Lambda = -e^{\rho} + i\, \omega, \quad \Delta = e^{\delta} \\
    y_t &= [\mathrm{Re}\, h_t, \mathrm{Im}\, h_t]\, C + D \odot x_t
    \end{aligned}$$

    This is the solution of $\dot h = \Lambda h + x B$ for an input held over the step $\Delta$.
    The hidden state is the complex `h` of shape `(d_hidden,)`. The parameters, all real, are
    `rate_log`, `frequency` and `step_log` of shape `(d_hidden,)`, which are $\rho$, $\omega$ and
    $\delta$, and `B`, `C`, `D` as in [`LRUCell`][etrace_nn.LRUCell].

    **Shapes**: `x (..., d_model) -> y (..., d_model)`.

    **Exactness**: exact at every length.

    Args:
        d_model: Number of inputs and of outputs.
        d_hidden: Number of complex hidden units.
        dt_min: Smallest initial step $\Delta$.
        dt_max: Largest initial step.
        state_init: Initial state: a function of the shape, or a value.
        name: Name of the module.

    References:
        Smith, Warrington, Linderman (2023). Simplified state space layers for sequence
        modeling. ICLR.
        Gu, Gupta, Goel, Ré (2022). On the parameterization and initialization of diagonal
        state space models. NeurIPS 35. (The initial $\Lambda_n = -1/2 + i \pi n$.)

    Example:
        >>> import jax.numpy as jnp
        >>> cell = S5Cell(2, 8)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 2))).shape, cell.h.value.dtype
        ((4, 2), dtype('complex64'))
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        name: str | None = None,
    ):
        super().__init__(d_model, d_hidden, state_init, name)
        step = log_uniform(d_hidden, dt_min, dt_max)
        self.rate_log = brainstate.ParamState(jnp.full_like(step, jnp.log(0.5)))
        self.frequency = brainstate.ParamState(jnp.pi * jnp.arange(d_hidden, dtype=step.dtype))
        self.step_log = brainstate.ParamState(jnp.log(step))

    def _coefficients(self) -> tuple[Any, Any]:
        parameters = (self.rate_log.value, self.frequency.value, self.step_log.value)
        both = element_wise(parameters, weight_fn=_held)
        return both[: self.d_hidden], both[self.d_hidden :]


def _held(parameters: tuple[Any, Any, Any]) -> Any:
    """Return the decay over a step and the weight of an input held over it, one after the other."""
    rate_log, frequency, step_log = parameters
    rate = jax.lax.complex(-jnp.exp(rate_log), frequency)
    decay = jnp.exp(rate * jnp.exp(step_log))
    return jnp.concatenate([decay, (decay - 1) / rate])

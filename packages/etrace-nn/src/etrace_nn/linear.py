"""Linear layers."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_compiler import matmul
from etrace_compiler.errors import explain_error
from etrace_nn._layer import Layer
from etrace_nn._values import as_size, check_input, initial_value, times

__all__ = ['Linear', 'ScaledWSLinear', 'SignedWLinear']


class _Dense(Layer):
    """A layer with a weight from the last axis of its input to that of its output."""

    def __init__(
        self, in_size: int | Sequence[int], out_size: int | Sequence[int], name: str | None
    ):
        super().__init__(name=name)
        self.in_size, self.out_size = as_size(in_size), as_size(out_size)
        if self.in_size[:-1] != self.out_size[:-1]:
            raise ValueError(
                explain_error(
                    f'{type(self).__name__} out_size',
                    'does not fit in_size',
                    got=self.out_size,
                    expected=str((*self.in_size[:-1], self.out_size[-1])),
                    fix='Change the last axis only.',
                    code='ETC608',
                )
            )
        self._shape = (self.in_size[-1], self.out_size[-1])

    def _factor(self, value: Any, subject: str) -> Any:
        """Make a mask or a sign of the shape of the weight; `None` stays."""
        return None if value is None else initial_value(value, self._shape, subject)


class Linear(_Dense):
    r"""Multiply by a trainable matrix and add a bias: $y = x\,(W \odot M) + b$.

    The parameters are `weight`, a `ParamState` of `{'weight': W, 'bias': b}`. The mask $M$ is
    part of the weight chain: what it switches off stays zero, and so does its gradient.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_size: Features of the input; of several axes only the last is multiplied.
        out_size: Features of the output; all axes but the last as in `in_size`.
        w_init: Initial weight: a function of the shape, or a value, with its unit.
        b_init: Initial bias; `None` for no bias.
        w_mask: Mask that broadcasts to `(in, out)`, or a function of that shape.
        name: Name of the module.
        param_type: Type of state that holds the parameters.

    Raises:
        ValueError: If sizes, initial values or the mask do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Linear(2, 3, w_init=1.0, w_mask=jnp.array([[1, 0, 1], [1, 1, 0]]))
        >>> layer(jnp.ones(2)).tolist()
        [2.0, 1.0, 1.0]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        w_init: Callable | Any = init.KaimingNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        w_mask: Callable | Any | None = None,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(in_size, out_size, name)
        params = {'weight': initial_value(w_init, self._shape, 'w_init')}
        if b_init is not None:
            params['bias'] = initial_value(b_init, self._shape[1:], 'b_init')
        self.w_mask = self._factor(w_mask, 'w_mask')
        self.weight = param_type(params)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size[-1]`.
        """
        check_input(x, self.in_size[-1:], self)
        params = self.weight.value
        mask = None if self.w_mask is None else lambda weight: times(weight, self.w_mask)
        return matmul(x, params['weight'], params.get('bias'), weight_fn=mask)


class SignedWLinear(_Dense):
    r"""Multiply by a matrix whose entries keep their sign: $y = x\,(|W| \odot S)$.

    The parameter is `weight`, a `ParamState` of $W$. Modulus and sign are part of the weight
    chain. With one sign for each row a neuron excites or inhibits all others: Dale's law.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_size: Features of the input; of several axes only the last is multiplied.
        out_size: Features of the output; all axes but the last as in `in_size`.
        w_init: Initial weight: a function of the shape, or a value, with its unit.
        w_sign: Signs that broadcast to `(in, out)`, such as `(in, 1)`; `None` for all positive.
        name: Name of the module.
        param_type: Type of state that holds the parameter.

    Raises:
        ValueError: If sizes, initial values or signs do not fit together.

    References:
        Song, Yang, Wang (2016). Training excitatory-inhibitory recurrent neural networks for
        cognitive tasks. PLOS Computational Biology 12(2).

    Example:
        >>> import jax.numpy as jnp
        >>> layer = SignedWLinear(2, 3, w_init=-2.0, w_sign=jnp.array([[1], [-1]]))
        >>> layer(jnp.array([1.0, 0.0])).tolist(), layer(jnp.array([0.0, 1.0])).tolist()
        ([2.0, 2.0, 2.0], [-2.0, -2.0, -2.0])
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        w_init: Callable | Any = init.KaimingNormal(),  # noqa: B008
        w_sign: Any | None = None,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(in_size, out_size, name)
        weight = initial_value(w_init, self._shape, 'w_init')
        self.w_sign = self._factor(w_sign, 'w_sign')
        self.weight = param_type(weight)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size[-1]`.
        """
        check_input(x, self.in_size[-1:], self)
        return matmul(x, self.weight.value, weight_fn=self._signed)

    def _signed(self, weight: Any) -> Any:
        return times(u.math.abs(weight), self.w_sign)


class ScaledWSLinear(_Dense):
    r"""Multiply by a matrix with standardised columns: $y = x\,(\hat W \odot M) + b$.

    $$\hat W_{io} = g_o\, \frac{W_{io} - \mu_o}{\sqrt{\max(n \sigma^2_o,\, \epsilon)}}$$

    $\mu_o$ and $\sigma^2_o$ are mean and variance of the $n$ entries of a column. The
    parameters are `weight`, a `ParamState` of `{'weight': W, 'bias': b, 'gain': g}`. The norm
    acts on parameters alone: it is part of the weight chain, and mixes no states.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_size: Features of the input; of several axes only the last is multiplied.
        out_size: Features of the output; all axes but the last as in `in_size`.
        w_init: Initial weight: a function of the shape, or a value.
        b_init: Initial bias; `None` for no bias.
        w_mask: Mask that broadcasts to `(in, out)`, or a function of that shape.
        ws_gain: Whether there is a gain.
        eps: Smallest variance, $\epsilon$.
        name: Name of the module.
        param_type: Type of state that holds the parameters.

    Raises:
        ValueError: If sizes, initial values or the mask do not fit together.

    References:
        Qiao, Wang, Liu, Shen, Yuille (2019). Micro-batch training with batch-channel
        normalization and weight standardization. arXiv:1903.10520.
        Brock, De, Smith (2021). Characterizing signal propagation to close the performance gap
        in unnormalized ResNets. ICLR.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = ScaledWSLinear(2, 1, w_init=jnp.array([[1.0], [3.0]]))
        >>> [round(float(v), 3) for v in layer(jnp.eye(2))[:, 0]]
        [-0.707, 0.707]
    """

    def __init__(
        self,
        in_size: int | Sequence[int],
        out_size: int | Sequence[int],
        w_init: Callable | Any = init.KaimingNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        w_mask: Callable | Any | None = None,
        ws_gain: bool = True,
        eps: float = 1e-4,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(in_size, out_size, name)
        params = {'weight': initial_value(w_init, self._shape, 'w_init')}
        if b_init is not None:
            params['bias'] = initial_value(b_init, self._shape[1:], 'b_init')
        if ws_gain:
            params['gain'] = u.math.ones((1, self._shape[1]), dtype=params['weight'].dtype)
        self.w_mask = self._factor(w_mask, 'w_mask')
        self.eps = eps
        self.weight = param_type(params)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size[-1]`.
        """
        check_input(x, self.in_size[-1:], self)
        params = dict(self.weight.value)
        return matmul(x, params, params.pop('bias', None), weight_fn=self._standardised)

    def _standardised(self, params: dict[str, Any]) -> Any:
        weight, gain = params['weight'], params.get('gain')
        weight = brainstate.nn.weight_standardization(weight, self.eps, gain)
        return times(weight, self.w_mask)

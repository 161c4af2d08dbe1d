"""Linear layers."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
from brainstate.nn import init

from etrace_compiler import matmul
from etrace_compiler.errors import explain_error
from etrace_nn._layer import Layer
from etrace_nn._values import as_size, check_input, initial_value

__all__ = ['Linear']


class Linear(Layer):
    r"""Multiply by a trainable matrix and add a bias: $y = x\,(W \odot M) + b$.

    The parameters are `weight`, a `ParamState` of `{'weight': W, 'bias': b}`. The mask $M$ is
    part of the weight chain: what it switches off stays zero, and so does its gradient.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

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
        super().__init__(name=name)
        self.in_size, self.out_size = as_size(in_size), as_size(out_size)
        if self.in_size[:-1] != self.out_size[:-1]:
            raise ValueError(
                explain_error(
                    'Linear out_size',
                    'does not fit in_size',
                    got=self.out_size,
                    expected=str((*self.in_size[:-1], self.out_size[-1])),
                    fix='Change the last axis only.',
                    code='ETC608',
                )
            )
        shape = (self.in_size[-1], self.out_size[-1])
        params = {'weight': initial_value(w_init, shape, 'w_init')}
        if b_init is not None:
            params['bias'] = initial_value(b_init, shape[1:], 'b_init')
        self.w_mask = None
        if w_mask is not None:
            self.w_mask = initial_value(w_mask, shape, 'w_mask').astype(params['weight'].dtype)
        self.weight = param_type(params)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size[-1]`.
        """
        check_input(x, self.in_size[-1:], self)
        params = self.weight.value
        mask = None if self.w_mask is None else lambda weight: u.math.multiply(weight, self.w_mask)
        return matmul(x, params['weight'], params.get('bias'), weight_fn=mask)

r"""What an operator is: one forward function and three views.

Every operator is a block matmul,

$$Y_{g,h,o} = \sum_i X_{g,h,i}\, W_{h,i,o},$$

where `g` runs over all that shares a weight (batch, space), `h` over all that does not
mix (groups, neurons), and `i`, `o` over what is summed and what is produced inside.
Trace layout, trace update and gradient contraction are derived from these facts alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler.ops._sparse_input import SparseInput

__all__ = ['Likeness', 'Operator', 'check_operator']


class Likeness(NamedTuple):
    """The one operation of JAX that an operator is.

    Attributes:
        name: Name of the operation.
        params: Those of its parameters that say how it moves elements.
        shape: Shape of its result.
    """

    name: str
    params: Mapping[str, Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operator:
    """The facts about one operator; compared by identity.

    Attributes:
        name: Name of the primitive, as it appears in jaxprs and reports.
        forward: `(x, weight, **params) -> y`, or `(weight, **params) -> y` without an input.
        x_block: `(x, weight_shape, **params) -> X` of shape `(G, H, I)`, or a `SparseInput`;
            `x` is `None` for an operator without an input.
        w_block: `(weight, **params) -> W` of shape `(H, I, O)`, linear in the weight.
        y_block: `(y, weight_shape, **params) -> Y` of shape `(G, H, O)`, by reshapes,
            transposes and look-ups alone, so that it also serves to carry labels and
            Jacobians; labels are NumPy arrays. Where it looks an element of `y` up more than
            once, the element is the sum of the products that it stands for.
        has_input: Whether the operator reads an input beside its weight.
        primitive: The JAX primitive that marks the operator in a jaxpr.
        like: `(*shapes, **params) -> Likeness | None`, for operands of one dtype. What it does
            not tell is found by tracing `forward`.
    """

    name: str
    forward: Callable[..., Any]
    x_block: Callable[..., Any]
    w_block: Callable[..., Any]
    y_block: Callable[..., Any]
    has_input: bool
    primitive: Any = field(repr=False)
    like: Callable[..., Likeness | None] = field(default=lambda *shapes, **params: None)

    @property
    def weight_index(self) -> int:
        """Which operand of the primitive is the weight."""
        return int(self.has_input)


def check_operator(operator: Operator, *args: Any, rtol: float = 1e-10, **params: Any) -> None:
    """Check an operator's facts against its forward function on given arrays.

    Args:
        operator: The operator under test.
        *args: `(x, weight)`, or `(weight,)` for an operator without an input.
        rtol: Relative tolerance of the comparison.
        **params: Static parameters of the operator.

    Raises:
        AssertionError: If the block law does not hold, or a block has the wrong rank.

    Example:
        >>> import jax.numpy as jnp
        >>> from etrace_compiler import operator_named
        >>> check_operator(operator_named('etp_matmul'), jnp.ones((5, 2)), jnp.ones((2, 3)),
        ...                equation='ai,io->ao', rtol=1e-6)
    """
    *inputs, weight = (jnp.asarray(a) for a in args)
    y = operator.forward(*inputs, weight, **params)
    x = inputs[0] if operator.has_input else None
    x_block = operator.x_block(x, weight.shape, **params)
    x_block = x_block.dense() if isinstance(x_block, SparseInput) else x_block
    w_block = operator.w_block(weight, **params)
    y_block = operator.y_block(y, weight.shape, **params)
    like = operator.like(*map(jnp.shape, args), **params)
    if like is not None:
        assert like.shape == y.shape, f'{operator.name}.like has shape {like.shape}, not {y.shape}'
    for name, block in (('x_block', x_block), ('w_block', w_block), ('y_block', y_block)):
        assert jnp.ndim(block) == 3, f'{operator.name}.{name} has rank {jnp.ndim(block)}, not 3'
    if x_block.dtype != w_block.dtype:
        x_block = x_block.astype(w_block.dtype)
    law = jnp.einsum('ghi,hio->gho', x_block, w_block, precision=jax.lax.Precision.HIGHEST)
    assert law.shape == y_block.shape, f'{operator.name}: X W is {law.shape}, Y {y_block.shape}'
    to_block = jax.linear_transpose(lambda y: operator.y_block(y, weight.shape, **params), y)
    (found,) = to_block(law.astype(y.dtype))
    np.testing.assert_allclose(y, found, rtol=rtol, atol=rtol, err_msg=operator.name)

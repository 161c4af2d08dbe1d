"""Inputs of one step, or of several consecutive steps."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etrace_compiler.errors import explain_error

__all__ = [
    'MultiStepData',
    'SingleStepData',
    'get_single_step_data',
    'split_input_data',
]


@partial(jax.tree_util.register_dataclass, data_fields=['data'], meta_fields=[])
@dataclass(frozen=True)
class SingleStepData:
    """Data of one time step; the same as the bare data.

    Attributes:
        data: Any pytree of arrays.
    """

    data: Any


@partial(jax.tree_util.register_dataclass, data_fields=['data'], meta_fields=[])
@dataclass(frozen=True)
class MultiStepData:
    """Data of consecutive time steps, on the first axis of every leaf.

    Attributes:
        data: Any pytree of arrays of shape `(K, ...)`.

    Example:
        >>> import jax.numpy as jnp
        >>> get_single_step_data(MultiStepData(jnp.zeros((5, 10))))[0].shape
        (10,)
    """

    data: Any


def get_single_step_data(*args: Any) -> tuple[Any, ...]:
    """Return the arguments of one step: of `MultiStepData` the first.

    Raises:
        ValueError: If there is no first step.
    """
    bare, multi, _ = split_input_data(args)
    return tuple(
        jax.tree.map(lambda x: x[0], arg) if is_multi else arg
        for arg, is_multi in zip(bare, multi, strict=True)
    )


def split_input_data(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[bool, ...], int | None]:
    """Unwrap arguments.

    Returns:
        The bare arguments, which of them have a leading axis of steps, and the number of
        steps; `None` if there is no `MultiStepData` among them.

    Raises:
        ValueError: If the numbers of steps differ, or there is none.
    """
    multi = tuple(isinstance(a, MultiStepData) for a in args)
    bare = tuple(a.data if isinstance(a, (SingleStepData, MultiStepData)) else a for a in args)
    lengths = {
        jnp.shape(x)[0] if jnp.ndim(x) else None
        for a, is_multi in zip(bare, multi, strict=True)
        if is_multi
        for x in jax.tree.leaves(a)
    }
    if not any(multi):
        return bare, multi, None
    length = next(iter(lengths)) if len(lengths) == 1 else None
    if not length:
        raise ValueError(
            explain_error(
                'MultiStepData',
                'does not say how many steps there are',
                got=f'leading axes {sorted(lengths, key=str)}',
                expected='the same number of steps, at least 1, in every leaf',
                fix='Put time on the first axis of every array.',
                code='ETC112',
            )
        )
    return bare, multi, length

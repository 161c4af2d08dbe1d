"""`embedding`: rows of a trainable table, looked up by index."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from etrace_compiler._jax import is_traced
from etrace_compiler.errors import explain_error
from etrace_compiler.ops._primitive import register_primitive
from etrace_compiler.ops._sparse_input import SparseInput
from etrace_compiler.ops._units import apply_hook, split_unit, with_unit

__all__ = ['embedding', 'embedding_op']


def _inside(indices: Any, rows: int) -> Any:
    """The same indices; those before the first row are behind the last one."""
    return jnp.where(indices < 0, rows, indices)


def _forward(indices: Any, weight: Any, *, active: int | None) -> Any:
    rows = _inside(indices, len(weight))
    return weight.at[rows].get(mode='fill', fill_value=jnp.nan)


def _x_block(indices: Any, weight_shape: Sequence[int], *, active: int | None) -> Any:
    index = _inside(indices, weight_shape[0]).reshape((-1, 1, 1))
    return SparseInput(index, jnp.ones(index.shape), weight_shape[0], active)


def _w_block(weight: Any, *, active: int | None) -> Any:
    return weight[None]


def _y_block(y: Any, weight_shape: Sequence[int], *, active: int | None) -> Any:
    return y.reshape((-1, 1, weight_shape[1]))


embedding_op = register_primitive(
    'etp_embedding', _forward, x_block=_x_block, w_block=_w_block, y_block=_y_block
)


def embedding(
    indices: Any,
    weight: Any,
    *,
    weight_fn: Callable[[Any], Any] | None = None,
    active_rows: int | None = None,
) -> Any:
    r"""Look rows of a trainable table up: $y = f(W)_i$.

    Full traces have room for all rows, or for `active_rows` of them for each index: the row that
    was looked up longest ago makes room for a new one, and what it still had to learn is dropped.
    They are exact as long as no more rows than that are in use at a time. Within a window that is
    solved at once nothing is dropped.

    Args:
        indices: Integers from 0 on, an array of any shape.
        weight: Table of shape `(rows, features)`, an array or quantity.
        weight_fn: Transformation of the table, traced with it.
        active_rows: For how many rows traces have room; all of them by default.

    Returns:
        Array or quantity of shape `(*indices.shape, features)`, in dtype and unit of the table.
        Under `jit`, where an index outside cannot raise, its row is NaN.

    Raises:
        TypeError: If the indices are not integers.
        IndexError: If an index is outside the table.
        ValueError: If the table is not of this shape, or there is room for no row.

    Example:
        >>> import jax.numpy as jnp
        >>> embedding(jnp.array([[2, 0]]), jnp.arange(6.0).reshape(3, 2))
        Array([[[4., 5.],
                [0., 1.]]], dtype=float32)
    """
    indices, (table, unit) = jnp.asarray(indices), split_unit(apply_hook(weight_fn, weight))
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        _refuse(TypeError, 'indices', 'are not integers', indices.dtype, 'an integer dtype',
                'Convert them with astype(int).')  # fmt: skip
    if table.ndim != 2:
        _refuse(ValueError, 'weight', 'is no table', table.shape, '(rows, features)',
                'Give the table two axes.')  # fmt: skip
    if active_rows is not None and not active_rows >= 1:
        _refuse(ValueError, 'active_rows', 'is too small', active_rows, 'at least 1',
                'Leave it out for all rows.')  # fmt: skip
    if not is_traced(indices) and indices.size:
        low, high = int(np.min(indices)), int(np.max(indices))
        if low < 0 or high >= len(table):
            _refuse(IndexError, 'indices', 'are outside the table', low if low < 0 else high,
                    f'0 to {len(table) - 1}', 'Count rows from 0.')  # fmt: skip
    indices = indices.astype(jnp.promote_types(indices.dtype, jnp.int32))
    active = None if active_rows is None or active_rows >= len(table) else active_rows
    return with_unit(embedding_op.primitive.bind(indices, table, active=active), unit)


def _refuse(
    error: type[Exception], subject: str, problem: str, got: Any, expected: str, fix: str
) -> None:
    raise error(
        explain_error(
            f'embedding {subject}',
            problem,
            got=f'{got}',
            expected=expected,
            fix=fix,
            code='ETC808',
        )
    )

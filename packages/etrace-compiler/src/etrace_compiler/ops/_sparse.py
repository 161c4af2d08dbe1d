"""`sparse_matmul`: a trainable product with a fixed pattern of non-zeros.

One block for each non-zero: its input is looked up by its row and its result by its column, so
that a trace has one entry for each non-zero.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from etrace_compiler._jax import is_traced
from etrace_compiler.errors import explain_error
from etrace_compiler.ops._mark import add_bias, mark_product, refuse_shapes
from etrace_compiler.ops._primitive import register_primitive
from etrace_compiler.ops._units import apply_hook, split_unit

__all__ = ['Pattern', 'sparse_matmul', 'sparse_matmul_op']


#: Up to so many places for each non-zero a matrix is filled up with zeros for a product.
_FILLED = 16


@dataclass(frozen=True)
class Pattern:
    """Where the non-zeros of a matrix are; compared by content.

    Attributes:
        shape: Shape of the matrix, `(in, out)`.
        row_bytes: The row of each non-zero, as the bytes of int32.
        column_bytes: Its column, likewise.
    """

    shape: tuple[int, int]
    row_bytes: bytes = field(repr=False)
    column_bytes: bytes = field(repr=False)

    @cached_property
    def rows(self) -> np.ndarray:
        return np.frombuffer(self.row_bytes, np.int32)

    @cached_property
    def columns(self) -> np.ndarray:
        return np.frombuffer(self.column_bytes, np.int32)

    @cached_property
    def is_filled(self) -> bool:
        """Whether a product of dense matrices is faster, and not much larger than the non-zeros.

        Never so for one non-zero in a column, whose result is that of one input.
        """
        size = len(self.rows)
        return len(np.unique(self.columns)) < size and math.prod(self.shape) <= _FILLED * size


def _forward(x: Any, weight: Any, *, pattern: Pattern) -> Any:
    inside = {'mode': 'promise_in_bounds', 'wrap_negative_indices': False}
    at, flat = (pattern.rows, pattern.columns), x.reshape((-1, pattern.shape[0]))
    if pattern.is_filled:
        y = flat @ jnp.zeros(pattern.shape, x.dtype).at[at].set(weight, **inside)
    else:  # the batch comes last: what belongs to one non-zero lies side by side
        products = flat.T.at[at[0]].get(**inside) * weight[:, None]
        y = jnp.zeros((pattern.shape[1], len(flat)), x.dtype).at[at[1]].add(products, **inside).T
    return y.reshape((*x.shape[:-1], pattern.shape[1]))


def _x_block(x: Any, weight_shape: Sequence[int], *, pattern: Pattern) -> Any:
    return x.reshape((-1, pattern.shape[0]))[:, pattern.rows, None]


def _w_block(weight: Any, *, pattern: Pattern) -> Any:
    return weight.reshape((-1, 1, 1))


def _y_block(y: Any, weight_shape: Sequence[int], *, pattern: Pattern) -> Any:
    return y.reshape((-1, pattern.shape[1]))[:, pattern.columns, None]


sparse_matmul_op = register_primitive(
    'etp_sparse_matmul', _forward, x_block=_x_block, w_block=_w_block, y_block=_y_block
)


def sparse_matmul(
    x: Any,
    weight: Any,
    *,
    sparse_mat: Any,
    bias: Any = None,
    weight_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Multiply by a matrix whose non-zeros are trainable: $y = x\,M_{f(w)} + g(b)$.

    Costs one multiplication, and one entry of a trace, for each non-zero.

    Args:
        x: Input, an array or quantity of shape `(..., in)` with any leading axes.
        weight: The non-zeros, of shape `(n,)`, in the order of `sparse_mat`.
        sparse_mat: Pattern of shape `(in, out)`: a `BCOO`, `BCSR`, `COO`, `CSR` or `CSC` matrix
            of `jax.experimental.sparse` or, where that is installed, of `brainevent`. Its own
            values are not used; it must not change from step to step.
        bias: Optional bias of shape `(out,)`, in the unit of `x` times `weight`.
        weight_fn: Transformation of the non-zeros, traced with them.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity of shape `(..., out)` in the common dtype of input and weight; its unit
        is that of `x` times that of the weight.

    Raises:
        TypeError: If `sparse_mat` is not a sparse matrix.
        ValueError: If it has duplicate entries or is not constant, the shapes do not fit, or the
            bias has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax.experimental import sparse
        >>> pattern = sparse.BCOO.fromdense(jnp.array([[1, 0, 1], [0, 1, 0]]))
        >>> sparse_matmul(jnp.array([10., 1.]), jnp.array([1., 2., 3.]), sparse_mat=pattern)
        Array([10.,  3., 20.], dtype=float32)
    """
    pattern = _pattern_of(sparse_mat)
    x, weight = split_unit(x), split_unit(apply_hook(weight_fn, weight))
    if x[0].shape[-1:] != pattern.shape[:1] or weight[0].shape != pattern.rows.shape:
        refuse_shapes(
            'sparse_matmul', x[0], weight[0],
            expected=f'x (..., {pattern.shape[0]}) and weight {pattern.rows.shape}, as sparse_mat '
            'has rows and non-zeros',
            fix='Make a parameter of the values of sparse_mat.',
        )  # fmt: skip
    y = mark_product(sparse_matmul_op, x, weight, pattern=pattern)
    return add_bias(y, bias, bias_fn, 'sparse_matmul')


def _pattern_of(matrix: Any) -> Pattern:
    """Read rows and columns off a sparse matrix, in the order of its values."""
    if isinstance(matrix, Pattern):
        return matrix
    kind = type(matrix).__name__
    parts: Any = [getattr(matrix, name, None) for name in ('indices', 'indptr', 'row', 'col')]
    if is_traced(parts):
        _refuse('is not constant', f'a {kind} that depends on what is traced',
                'a fixed pattern', 'Keep it beside the parameters, not among them.')  # fmt: skip
    indices, indptr, row, col = parts
    if kind in ('CSR', 'BCSR', 'CSC') and indptr is not None and np.ndim(indptr) == 1:
        counts = np.diff(np.asarray(indptr, np.int64))
        rows, columns = np.repeat(np.arange(len(counts)), counts), np.asarray(indices)
        rows, columns = (columns, rows) if kind == 'CSC' else (rows, columns)
    elif kind == 'COO' and row is not None:
        rows, columns = np.asarray(row), np.asarray(col)
    elif kind == 'BCOO' and np.ndim(indices) == 2 and np.shape(indices)[1] == 2:
        rows, columns = np.asarray(indices).T
    else:
        _refuse('is no sparse matrix', f'a {kind}', 'a BCOO, BCSR, COO, CSR or CSC matrix '
                'without batch or dense axes', 'Make one with jax.experimental.sparse.',
                TypeError)  # fmt: skip
    shape = int(matrix.shape[0]), int(matrix.shape[1])
    _check_places(rows, columns, shape)
    return Pattern(shape, rows.astype(np.int32).tobytes(), columns.astype(np.int32).tobytes())


def _check_places(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    if not inside.all():
        at = int(np.argmin(inside))
        _refuse('has an entry outside', f'({rows[at]}, {columns[at]})', f'places in {shape}',
                'Leave out padding, for example with sum_duplicates(nse=n).')  # fmt: skip
    flat, first = np.unique(rows.astype(np.int64) * shape[1] + columns, return_index=True)
    if len(flat) < len(rows):
        at = int(np.setdiff1d(np.arange(len(rows)), first)[0])
        _refuse('has duplicate entries', f'({rows[at]}, {columns[at]}) more than once',
                'each place once', 'Add them up with sum_duplicates().')  # fmt: skip


def _refuse(problem: str, got: str, expected: str, fix: str, error: type = ValueError) -> NoReturn:
    raise error(
        explain_error('sparse_mat', problem, got=got, expected=expected, fix=fix, code='ETC807')
    )

"""Projections with structure: blocks, a fixed pattern, a low rank, a table."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_compiler import embedding, grouped_matmul, lora_matmul, sparse_matmul
from etrace_compiler.errors import explain_error
from etrace_nn._layer import Layer
from etrace_nn._values import as_size, check_input, initial_value

__all__ = ['Embedding', 'GroupedLinear', 'LoRA', 'SparseLinear']


class GroupedLinear(Layer):
    r"""Multiply each group of features by a matrix of its own: a block-diagonal matrix.

    $$y_h = x_h W_h + b_h, \qquad x = [x_1, x_2, \dots], \quad y = [y_1, y_2, \dots]$$

    The parameters are `weight`, a `ParamState` of `{'weight': W, 'bias': b}` of the shapes
    `(groups, in / groups, out / groups)` and `(groups, out / groups)`.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_size: Number of inputs.
        out_size: Number of outputs.
        groups: Number of groups, a divisor of both.
        w_init: Initial weight: a function of the shape of one block, or a value for all.
        b_init: Initial bias; `None` for no bias.
        name: Name of the module.
        param_type: Type of state that holds the parameters.

    Raises:
        ValueError: If the groups do not divide the sizes, or initial values do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = GroupedLinear(4, 2, groups=2, w_init=1.0)
        >>> layer(jnp.array([1.0, 2.0, 3.0, 4.0])).tolist()
        [3.0, 7.0]
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        groups: int,
        w_init: Callable | Any = init.KaimingNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(name=name)
        if groups < 1 or in_size % groups or out_size % groups:
            raise ValueError(
                explain_error(
                    'GroupedLinear groups',
                    'do not divide the features',
                    got=f'{groups} groups of {in_size} inputs and {out_size} outputs',
                    expected='a divisor of both',
                    fix='Choose another number of groups, or of features.',
                    code='ETC611',
                )
            )
        self.in_size, self.out_size, self.groups = (in_size,), (out_size,), groups
        block = (in_size // groups, out_size // groups)
        if callable(w_init):
            # block by block: the scale depends on what is summed
            blocks = [initial_value(w_init, block, 'w_init') for _ in range(groups)]
            weight = u.math.stack(blocks)
        else:
            weight = initial_value(w_init, (groups, *block), 'w_init')
        params = {'weight': weight}
        if b_init is not None:
            params['bias'] = initial_value(b_init, (groups, block[1]), 'b_init')
        self.weight = param_type(params)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size`.
        """
        check_input(x, self.in_size, self)
        params, lead = self.weight.value, x.shape[:-1]
        x = x.reshape((*lead, self.groups, -1))
        return grouped_matmul(x, params['weight'], params.get('bias')).reshape((*lead, -1))


class SparseLinear(Layer):
    r"""Multiply by a matrix with a fixed pattern of trainable non-zeros: $y = x M_w + b$.

    The parameters are `weight`, a `ParamState` of `{'weight': w, 'bias': b}`; $w$ are the values
    of the sparse matrix, in its order. A trace has one entry for each of them.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        spar_mat: Sparse matrix of shape `(in, out)`, see
            [`sparse_matmul`][etrace_compiler.sparse_matmul]; its values are the initial weight.
        b_init: Initial bias; `None` for no bias.
        in_size: Shape of the input, whose last axis is `in`; by default that alone.
        name: Name of the module.
        param_type: Type of state that holds the parameters.

    Raises:
        TypeError: If `spar_mat` is not a sparse matrix.
        ValueError: If it has duplicate entries, or the initial bias does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax.experimental import sparse
        >>> matrix = jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
        >>> layer = SparseLinear(sparse.BCOO.fromdense(matrix))
        >>> layer(jnp.array([10.0, 1.0])).tolist()
        [10.0, 3.0, 20.0]
    """

    def __init__(
        self,
        spar_mat: Any,
        b_init: Callable | Any | None = None,
        in_size: int | Sequence[int] | None = None,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(name=name)
        size = as_size(spar_mat.shape[0] if in_size is None else in_size)
        self.in_size, self.out_size = size, (*size[:-1], spar_mat.shape[-1])
        self.spar_mat = spar_mat
        # this also refuses, here and now, what is no pattern
        jax.eval_shape(lambda x: self._product(x, spar_mat.data), jnp.zeros(spar_mat.shape[:1]))
        params = {'weight': spar_mat.data}
        if b_init is not None:
            params['bias'] = initial_value(b_init, self.out_size[-1:], 'b_init')
        self.weight = param_type(params)

    def update(self, x: Any) -> Any:
        """Return the product.

        Raises:
            ValueError: If the last axis of the input is not `in_size[-1]`.
        """
        check_input(x, self.in_size[-1:], self)
        params = self.weight.value
        return self._product(x, params['weight'], params.get('bias'))

    def _product(self, x: Any, weight: Any, bias: Any = None) -> Any:
        return sparse_matmul(x, weight, sparse_mat=self.spar_mat, bias=bias)


class LoRA(Layer):
    r"""Multiply by a matrix of low rank, beside a module that stays as it is.

    $$y = \alpha\, x A B + \mathrm{base}(x)$$

    The parameters are `weight`, a `ParamState` of `{'lora_a': A, 'lora_b': B}` of the shapes
    `(in, rank)` and `(rank, out)`. The base is frozen where its parameters are not `ParamState`s.

    **Shapes**: `x (..., in) -> y (..., out)`, with any leading axes.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_features: Number of inputs.
        lora_rank: Rank of the product.
        out_features: Number of outputs.
        base_module: A module from `in` to `out` features, or `None`.
        kernel_init: Initial factors: a function of the shape.
        param_type: Type of state that holds the parameters.
        in_size: Shape of the input, whose last axis is `in`; by default that alone.
        alpha: Scale of the product.

    References:
        Hu et al. (2022). LoRA: low-rank adaptation of large language models. ICLR.

    Example:
        >>> import jax.numpy as jnp
        >>> LoRA(6, 2, 3)(jnp.ones((4, 6))).shape
        (4, 3)
    """

    def __init__(
        self,
        in_features: int,
        lora_rank: int,
        out_features: int,
        *,
        base_module: brainstate.nn.Module | None = None,
        kernel_init: Callable | Any = init.LecunNormal(),  # noqa: B008
        param_type: type = brainstate.ParamState,
        in_size: int | Sequence[int] | None = None,
        alpha: float = 1.0,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        size = as_size(in_features if in_size is None else in_size)
        self.in_size, self.out_size = size, (*size[:-1], out_features)
        self.base_module, self.alpha = base_module, alpha
        self.weight = param_type(
            {
                'lora_a': initial_value(kernel_init, (in_features, lora_rank), 'kernel_init'),
                'lora_b': initial_value(kernel_init, (lora_rank, out_features), 'kernel_init'),
            }
        )

    def update(self, x: Any) -> Any:
        """Return the sum of both.

        Raises:
            ValueError: If the last axis of the input is not `in_features`.
        """
        check_input(x, self.in_size[-1:], self)
        params = self.weight.value
        y = lora_matmul(x, params['lora_a'], params['lora_b'], alpha=self.alpha)
        return y if self.base_module is None else y + self.base_module(x)


class Embedding(Layer):
    r"""Look rows of a trainable table up: $y = W_i$.

    The parameter is `weight`, a `ParamState` of shape `(num_embeddings, *embedding_size)`.

    **Shapes**: `i (...) -> y (..., *embedding_size)`, for integers `i`.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        num_embeddings: Number of rows.
        embedding_size: Shape of a row.
        embedding_init: Initial table: a function of the shape, or a value.
        padding_idx: A row that is zero at first and stays as it is.
        name: Name of the module.
        param_type: Type of state that holds the parameter.
        active_rows: For how many rows traces have room; all of them by default. See
            [`embedding`][etrace_compiler.embedding].

    Raises:
        ValueError: If the initial table does not fit, or there is no row `padding_idx`.

    Example:
        >>> import jax.numpy as jnp
        >>> table = Embedding(3, 2, embedding_init=jnp.arange(6.0).reshape(3, 2))
        >>> table(jnp.array([2, 0])).tolist()
        [[4.0, 5.0], [0.0, 1.0]]
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_size: int | Sequence[int],
        embedding_init: Callable | Any = init.LecunUniform(),  # noqa: B008
        padding_idx: int | None = None,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
        active_rows: int | None = None,
    ):
        super().__init__(name=name)
        self.num_embeddings, self.padding_idx = num_embeddings, padding_idx
        self.embedding_size = self.out_size = as_size(embedding_size)
        self.active_rows = active_rows
        shape = (num_embeddings, *self.embedding_size)
        weight = initial_value(embedding_init, shape, 'embedding_init')
        if padding_idx is not None:
            if not 0 <= padding_idx < num_embeddings:
                raise ValueError(
                    explain_error(
                        'padding_idx',
                        'is outside the table',
                        got=padding_idx,
                        expected=f'0 to {num_embeddings - 1}',
                        fix='Count rows from 0.',
                        code='ETC612',
                    )
                )
            weight = weight.at[padding_idx].set(0 * weight[padding_idx])
        self.weight = param_type(weight)

    def update(self, indices: Any) -> Any:
        """Return the rows.

        Raises:
            TypeError: If the indices are not integers.
            IndexError: If an index is outside the table.
        """
        rows = embedding(
            indices, self.weight.value, weight_fn=self._table, active_rows=self.active_rows
        )
        return rows.reshape((*rows.shape[:-1], *self.embedding_size))

    def _table(self, weight: Any) -> Any:
        if self.padding_idx is not None:
            fixed = jax.lax.stop_gradient(weight[self.padding_idx])
            weight = weight.at[self.padding_idx].set(fixed)
        return weight.reshape((self.num_embeddings, -1))

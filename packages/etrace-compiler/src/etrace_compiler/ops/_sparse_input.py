"""`SparseInput`: an input in block form of which a few entries are not zero."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['SparseInput']


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['index', 'value'],
    meta_fields=['size', 'active'],
)
@dataclass(frozen=True)
class SparseInput:
    """The input `X` of a look-up: `X[g, h, index[g, h, n]]` is `value[g, h, n]`, others are 0.

    Attributes:
        index: Which of the inputs, integers `(..., G, H, N)`; those outside count for nothing.
        value: What stands there, `(..., G, H, N)`.
        size: Number of all inputs, `I`.
        active: For how many of them, per shared element and block, a trace has room; `None` for
            all.
    """

    index: Any
    value: Any
    size: int
    active: int | None = None

    @property
    def dtype(self) -> Any:
        """Dtype of the values."""
        return self.value.dtype

    def astype(self, dtype: Any) -> 'SparseInput':
        """Return the same input in another dtype."""
        return SparseInput(self.index, self.value.astype(dtype), self.size, self.active)

    def dense(self) -> Any:
        """Return the input as an array `(..., G, H, I)`.

        Example:
            >>> SparseInput(jnp.array([[[2]]]), jnp.ones((1, 1, 1)), size=4).dense()
            Array([[[0., 0., 1., 0.]]], dtype=float32)
        """
        one_hot = jax.nn.one_hot(self.index, self.size, dtype=self.dtype)
        return jnp.sum(one_hot * self.value[..., None], axis=-2)

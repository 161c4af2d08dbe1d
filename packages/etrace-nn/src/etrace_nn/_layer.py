"""The bases of all layers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import brainstate
import jax.numpy as jnp

from etrace_nn._values import BatchSize, initial_value

__all__ = ['Layer', 'StatefulLayer']


class Layer(brainstate.nn.Module):
    """A module of `brainstate` with the types that a checker does not find there."""

    if TYPE_CHECKING:
        in_size: tuple[int, ...]  # pyright: ignore[reportIncompatibleMethodOverride]
        out_size: tuple[int, ...]  # pyright: ignore[reportIncompatibleMethodOverride]

        def __init__(self, name: str | None = None) -> None: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class StatefulLayer(Layer):
    """A layer with hidden states of one shape."""

    _initial: Mapping[str, Any]
    _state_size: tuple[int, ...]
    _state_dtype: Any = None
    _init_argument: str | None = None

    if TYPE_CHECKING:  # states and properties are set by name

        def __getattr__(self, name: str) -> Any: ...

    def _hold(
        self,
        size: tuple[int, ...],
        initial: Mapping[str, Any],
        argument: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Declare the hidden states.

        Args:
            size: Their shape without batch axes.
            initial: Initial value, or a function of the shape, by the name of the state.
            argument: Name of the argument that gives it, for error messages; by default that
                of the state with `_init`.
            dtype: A type that they have at least, such as `jnp.complex64`.
        """
        self._state_size, self._initial = size, dict(initial)
        self._init_argument, self._state_dtype = argument, dtype

    def _initial_value(self, name: str, batch_size: BatchSize) -> Any:
        argument = self._init_argument or f'{name}_init'
        value = initial_value(self._initial[name], self._state_size, argument, batch_size)
        if self._state_dtype is None:
            return value
        return value.astype(jnp.promote_types(value.dtype, self._state_dtype))

    def init_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Create the hidden states.

        Args:
            batch_size: One leading axis, several, or `None` for none.
            **kwargs: Ignored.
        """
        for name in self._initial:
            setattr(self, name, brainstate.HiddenState(self._initial_value(name, batch_size)))

    def reset_state(self, batch_size: BatchSize = None, **kwargs: Any) -> None:
        """Set the hidden states to their initial values.

        Args:
            batch_size: One leading axis, several, or `None` for none.
            **kwargs: Ignored.
        """
        for name in self._initial:
            getattr(self, name).value = self._initial_value(name, batch_size)

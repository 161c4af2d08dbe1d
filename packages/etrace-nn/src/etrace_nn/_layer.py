"""The base of all layers."""

from typing import TYPE_CHECKING, Any

import brainstate

__all__ = ['Layer']


class Layer(brainstate.nn.Module):
    """A module of `brainstate` with the types that a checker does not find there."""

    if TYPE_CHECKING:
        in_size: tuple[int, ...]  # pyright: ignore[reportIncompatibleMethodOverride]
        out_size: tuple[int, ...]  # pyright: ignore[reportIncompatibleMethodOverride]

        def __init__(self, name: str | None = None) -> None: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

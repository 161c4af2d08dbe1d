"""What a population sends out, kept as a hidden state."""

from collections.abc import Sequence
from typing import Any

import brainstate
import jax.numpy as jnp

__all__ = ['Observed']


class Observed(brainstate.nn.Module):
    r"""Keep what a layer returns as a hidden state `z`, with a trace of its own.

    The trace of `z` is $\partial z_t/\partial\theta$, so that what is done to it, such as a filter,
    is done to the derivative of the output and not to that of a membrane. A learning signal at `z`
    needs no derivative of the spike function. The values are those of the layer.

    Args:
        layer: A layer that returns one array.
        out_size: Its shape without the batch; by default `layer.out_size`.

    Example:
        >>> import brainunit as u, etrace_nn
        >>> layer = Observed(etrace_nn.LIF(3, dt=1 * u.ms))
        >>> _ = brainstate.nn.init_all_states(layer, 2)
        >>> layer(jnp.full((2, 3), 2.0) * u.mA).shape, layer.z.value.shape
        ((2, 3), (2, 3))
    """

    z: brainstate.HiddenState

    def __init__(self, layer: brainstate.nn.Module, out_size: int | Sequence[int] | None = None):
        super().__init__()
        self.layer = layer
        size: Any = getattr(layer, 'out_size', ()) if out_size is None else out_size
        self.shape: tuple[int, ...] = (size,) if isinstance(size, int) else tuple(size)

    def init_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Create `z`, zero."""
        self.z = brainstate.HiddenState(self._zeros(batch_size))

    def reset_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Set `z` to zero."""
        self.z.value = self._zeros(batch_size)

    def _zeros(self, batch_size: int | None) -> Any:
        return jnp.zeros(self.shape if batch_size is None else (batch_size, *self.shape))

    def update(self, *args: Any) -> Any:
        """Do one step of the layer."""
        z: Any = self.z.value
        self.z.value = jnp.asarray(self.layer(*args), z.dtype)
        return self.z.value

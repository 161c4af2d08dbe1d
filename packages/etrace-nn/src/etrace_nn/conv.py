"""Convolutions, and a cell made of them."""

from collections.abc import Callable, Sequence
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.nn import init

from etrace_compiler import conv
from etrace_compiler.errors import explain_error
from etrace_nn._cell import GRUStep
from etrace_nn._layer import Layer
from etrace_nn._values import as_size, check_input, initial_value, times

__all__ = ['Conv1d', 'Conv2d', 'Conv3d', 'ConvGRUCell']

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def _check_rank(subject: str, in_size: tuple[int, ...], rank: int) -> None:
    if len(in_size) != rank:
        raise ValueError(
            explain_error(
                f'{subject} in_size',
                'has the wrong number of axes',
                got=in_size,
                expected=f'{rank}: space and channels, without a batch',
                fix='Take the convolution of that many dimensions.',
                code='ETC613',
            )
        )


def _pairs(padding: Padding, ndim: int) -> str | tuple[tuple[int, int], ...]:
    """Write a padding as `conv` takes it."""
    if isinstance(padding, str):
        return padding
    entries: list[Any] = [padding] * ndim if isinstance(padding, int) else list(padding)
    if ndim == 1 and len(entries) == 2 and all(isinstance(p, int) for p in entries):
        entries = [entries]
    if len(entries) == 1:
        entries = entries * ndim
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in entries)


class _Conv(Layer):
    """A convolution over `num_spatial_dims` axes."""

    num_spatial_dims: int

    def __init__(
        self,
        in_size: Sequence[int],
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 'SAME',
        lhs_dilation: int | Sequence[int] = 1,
        rhs_dilation: int | Sequence[int] = 1,
        groups: int = 1,
        w_init: Callable | Any = init.XavierNormal(),  # noqa: B008
        b_init: Callable | Any | None = None,
        w_mask: Callable | Any | None = None,
        channel_first: bool = False,
        name: str | None = None,
        param_type: type = brainstate.ParamState,
    ):
        super().__init__(name=name)
        ndim = self.num_spatial_dims
        self.in_size, self.out_channels = as_size(in_size), out_channels
        _check_rank(type(self).__name__, self.in_size, ndim + 1)
        self.channel_first, self.groups = channel_first, groups
        self.in_channels = self.in_size[0 if channel_first else -1]
        kernel = as_size(kernel_size)
        self.kernel_size = kernel * ndim if len(kernel) == 1 else kernel
        space = 'XYZ'[:ndim]
        image = f'NC{space}' if channel_first else f'N{space}C'
        self._settings = {
            'strides': stride,
            'padding': _pairs(padding, ndim),
            'lhs_dilation': lhs_dilation,
            'rhs_dilation': rhs_dilation,
            'feature_group_count': groups,
            'dimension_numbers': (image, f'{space}IO', image),
        }
        shape = (*self.kernel_size, max(self.in_channels // groups, 1), out_channels)
        params = {'weight': initial_value(w_init, shape, 'w_init')}
        if b_init is not None:
            params['bias'] = initial_value(b_init, (out_channels,), 'b_init')
        self.w_mask = None if w_mask is None else initial_value(w_mask, shape, 'w_mask')
        self.weight = param_type(params)
        # this also refuses, here and now, what does not fit together
        self.out_size = jax.eval_shape(self._convolve, jnp.zeros((1, *self.in_size)), params).shape[
            1:
        ]

    def update(self, x: Any) -> Any:
        """Return the convolution.

        Raises:
            ValueError: If the last axes of the input are not `in_size`.
        """
        check_input(x, self.in_size, self)
        return self._convolve(x, self.weight.value)

    def _convolve(self, x: Any, params: dict[str, Any]) -> Any:
        bias = params.get('bias')
        return conv(x, params['weight'], bias, kernel_fn=self._masked, **self._settings)

    def _masked(self, kernel: Any) -> Any:
        return times(kernel, self.w_mask)


class Conv1d(_Conv):
    r"""Convolve over one axis: $y = x * (K \odot M) + b$.

    The parameters are `weight`, a `ParamState` of `{'weight': K, 'bias': b}` of the shapes
    `(window, in channels / groups, out channels)` and `(out channels,)`. The mask $M$ is part of
    the weight chain.

    **Shapes**: `x (..., space, in) -> y (..., space', out)`, with any leading axes; with
    `channel_first`, `x (..., in, space)`.

    **Exactness**: exact at every length, in front of states that do not mix.

    Args:
        in_size: Shape of the input, space and channels.
        out_channels: Number of channels of the output.
        kernel_size: Size of the window, one number or one for each spatial axis.
        stride: Steps of the window, likewise.
        padding: `'SAME'`, `'VALID'`, or elements before and after each spatial axis: a number, a
            number for each axis, or a pair for each axis.
        lhs_dilation: Dilation of the input.
        rhs_dilation: Dilation of the kernel.
        groups: Groups of channels that do not mix.
        w_init: Initial kernel: a function of the shape, or a value, with its unit.
        b_init: Initial bias; `None` for no bias.
        w_mask: Mask that broadcasts to the kernel, or a function of its shape.
        channel_first: Whether the channels come before space.
        name: Name of the module.
        param_type: Type of state that holds the parameters.

    Raises:
        ValueError: If sizes, settings or initial values do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Conv1d((8, 2), 3, kernel_size=5, stride=2)
        >>> layer(jnp.ones((4, 8, 2))).shape, layer.out_size
        ((4, 4, 3), (4, 3))
    """

    num_spatial_dims = 1


class Conv2d(_Conv):
    """Convolve over two axes; equation and arguments are those of `Conv1d`.

    **Shapes**: `x (..., height, width, in) -> y (..., height', width', out)`.

    **Exactness**: exact at every length, in front of states that do not mix.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Conv2d((8, 6, 2), 3, kernel_size=3, padding='VALID')
        >>> layer(jnp.ones((4, 8, 6, 2))).shape
        (4, 6, 4, 3)
    """

    num_spatial_dims = 2


class Conv3d(_Conv):
    """Convolve over three axes; equation and arguments are those of `Conv1d`.

    **Shapes**: `x (..., depth, height, width, in) -> y (..., depth', height', width', out)`.

    **Exactness**: exact at every length, in front of states that do not mix.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Conv3d((4, 4, 4, 2), 3, kernel_size=(1, 2, 3))
        >>> layer(jnp.ones((4, 4, 4, 2))).shape
        (4, 4, 4, 3)
    """

    num_spatial_dims = 3


class ConvGRUCell(GRUStep):
    r"""Do one step of gated recurrent units whose products are convolutions.

    $$\begin{aligned}
    [r_t, z_t] &= \sigma([x_t, h_{t-1}] * K_{rz} + b_{rz}) \\
    \tilde h_t &= \phi([x_t, r_t \odot h_{t-1}] * K_h + b_h) \\
    h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot \tilde h_t
    \end{aligned}$$

    The hidden state is `h` of shape `(*space, out)`; the parameters are `Wrz.weight` and
    `Wh.weight`, with `2 out` and `out` channels, each with its bias.

    **Shapes**: `x (..., *space, in) -> h (..., *space, out)`, in one to three dimensions.

    **Exactness**: approximate; the recurrent convolutions mix positions.

    Args:
        in_size: Shape of the input, space and channels.
        out_channels: Number of channels of the state.
        kernel_size: Size of the window, one number or one for each spatial axis.
        w_init: Initial kernels.
        b_init: Initial biases.
        state_init: Initial state: a function of the shape, or a value.
        activation: $\phi$, a function or the name of one in `brainstate.nn`.
        name: Name of the module.

    Raises:
        ValueError: If sizes or initial values do not fit together.

    References:
        Ballas, Yao, Pal, Courville (2016). Delving deeper into convolutional networks for
        learning video representations. ICLR.

    Example:
        >>> import jax.numpy as jnp
        >>> cell = ConvGRUCell((8, 6, 2), 3, kernel_size=3)
        >>> cell.init_state(batch_size=4)
        >>> cell(jnp.ones((4, 8, 6, 2))).shape
        (4, 8, 6, 3)
    """

    def __init__(
        self,
        in_size: Sequence[int],
        out_channels: int,
        kernel_size: int | Sequence[int],
        w_init: Callable | Any = init.XavierNormal(),  # noqa: B008
        b_init: Callable | Any | None = init.ZeroInit(),  # noqa: B008
        state_init: Callable | Any = init.ZeroInit(),  # noqa: B008
        activation: str | Callable[[Any], Any] = 'tanh',
        name: str | None = None,
    ):
        *space, channels = as_size(in_size)
        super().__init__(channels, out_channels, state_init, activation, name)
        self.in_size, self.out_size = (*space, channels), (*space, out_channels)
        self._hold(self.out_size, {'h': state_init}, 'state_init')
        both = (*space, channels + out_channels)
        layer = {1: Conv1d, 2: Conv2d}.get(len(space), Conv3d)
        self.Wrz = layer(both, 2 * out_channels, kernel_size, w_init=w_init, b_init=b_init)
        self.Wh = layer(both, out_channels, kernel_size, w_init=w_init, b_init=b_init)

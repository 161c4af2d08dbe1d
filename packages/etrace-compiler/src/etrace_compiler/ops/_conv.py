"""`conv`: a trainable convolution, as a product of patches and a kernel."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax

from etrace_compiler.errors import explain_error
from etrace_compiler.ops._mark import add_bias, mark_product, refuse_shapes
from etrace_compiler.ops._primitive import register_primitive
from etrace_compiler.ops._units import apply_hook, split_unit

__all__ = ['conv', 'conv_op']


def _forward(x: Any, kernel: Any, *, groups: int, numbers: Any, **window: Any) -> Any:
    return jax.lax.conv_general_dilated(
        x, kernel, feature_group_count=groups, dimension_numbers=numbers, **window
    )


def _x_block(
    x: Any, kernel_shape: Sequence[int], *, groups: int, numbers: Any, **window: Any
) -> Any:
    """One row of patches per place: `(batch space, groups, channels kernel)`."""
    size = [kernel_shape[axis] for axis in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        x.transpose(numbers.lhs_spec), size, precision=jax.lax.Precision.HIGHEST, **window
    )
    return _by_place(patches, groups)


def _w_block(kernel: Any, *, groups: int, numbers: Any, **window: Any) -> Any:
    kernel = kernel.transpose(numbers.rhs_spec)
    flat = kernel.reshape((groups, kernel.shape[0] // groups, math.prod(kernel.shape[1:])))
    return flat.transpose((0, 2, 1))


def _y_block(
    y: Any, kernel_shape: Sequence[int], *, groups: int, numbers: Any, **window: Any
) -> Any:
    return _by_place(y.transpose(numbers.out_spec), groups)


def _by_place(value: Any, groups: int) -> Any:
    """Bring `(batch, channels, *space)` into the form `(batch space, groups, channels)`."""
    batch, channels, *space = value.shape
    places = math.prod(space)
    block = value.reshape((batch, groups, channels // groups, places)).transpose((0, 3, 1, 2))
    return block.reshape((batch * places, groups, channels // groups))


conv_op = register_primitive(
    'etp_conv', _forward, x_block=_x_block, w_block=_w_block, y_block=_y_block
)


def conv(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = 'SAME',
    lhs_dilation: int | Sequence[int] = 1,
    rhs_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    dimension_numbers: Any = None,
    kernel_fn: Callable[[Any], Any] | None = None,
    bias_fn: Callable[[Any], Any] | None = None,
) -> Any:
    r"""Convolve with a trainable kernel: $y = x * f(K) + g(b)$.

    As `jax.lax.conv_general_dilated`, in any number of spatial dimensions. Its full trace has an
    entry for each place, kernel element and pair of channels of one group.

    Args:
        x: Input, an array or quantity of shape `(..., channels, *space)`, or as
            `dimension_numbers` says; with any number of leading axes where the batch comes first.
        kernel: Kernel of shape `(out, channels / groups, *window)`, or as they say.
        bias: Optional bias of shape `(out,)`, in the unit of `x` times `kernel`.
        strides: Steps of the window: one number, or one for each spatial axis.
        padding: `'SAME'`, `'VALID'`, or pairs of elements before and after each spatial axis.
        lhs_dilation: Dilation of the input, likewise; more than 1 is a transposed convolution.
        rhs_dilation: Dilation of the kernel, likewise.
        feature_group_count: Groups of channels that do not mix; all of them for a depthwise one.
        batch_group_count: Must be 1.
        dimension_numbers: As in `jax.lax`, for example `('NHWC', 'HWIO', 'NHWC')`.
        kernel_fn: Transformation of the kernel, traced with it.
        bias_fn: Transformation of the bias.

    Returns:
        Array or quantity in the common dtype of input and kernel, of shape `(..., out, *space)`
        or as `dimension_numbers` says; its unit is that of `x` times that of the kernel.

    Raises:
        ValueError: If shapes or settings do not fit each other, there are batch groups, or the
            bias has the wrong unit or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> conv(jnp.ones((4, 2, 8)), jnp.ones((5, 2, 3)), jnp.zeros(5), strides=2).shape
        (4, 5, 4)
    """
    x, kernel = split_unit(x), split_unit(apply_hook(kernel_fn, kernel))
    ndim = kernel[0].ndim - 2
    if ndim < 1:
        _refuse_kernel(x[0], kernel[0], feature_group_count)
    if batch_group_count != 1:
        _refuse('batch_group_count', 'is not supported', batch_group_count, '1',
                'Use feature_group_count, or map over the groups.')  # fmt: skip
    rank = (1,) * (ndim + 2)
    numbers = jax.lax.conv_dimension_numbers(rank, rank, dimension_numbers)
    value, lead = _one_batch_axis(x[0], ndim, numbers)
    channels, out = value.shape[numbers.lhs_spec[1]], kernel[0].shape[numbers.rhs_spec[0]]
    of_group = kernel[0].shape[numbers.rhs_spec[1]]
    if channels != of_group * feature_group_count or out % feature_group_count:
        _refuse_kernel(x[0], kernel[0], feature_group_count)
    window = _window(value, kernel[0], numbers, strides, padding, lhs_dilation, rhs_dilation)
    y = mark_product(conv_op, (value, x[1]), kernel, groups=feature_group_count,
                     numbers=numbers, **window)  # fmt: skip
    y = y if lead is None else y.reshape((*lead, *y.shape[1:]))
    after = ndim + 1 - numbers.out_spec[1]  # axes of the result behind the channels
    if bias is not None and bias.shape != (out,):
        _refuse('bias', 'has the wrong shape', bias.shape, f'({out},)', 'One for each channel.')

    def along_channels(b: Any) -> Any:
        return apply_hook(bias_fn, b).reshape((out, *(1,) * after))

    return add_bias(y, bias, along_channels, 'conv', axes=1 + after)


def _one_batch_axis(x: Any, ndim: int, numbers: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Merge leading axes into one; return them, or `None` where there is one already."""
    if x.ndim == ndim + 2:
        return x, None
    if numbers.lhs_spec[0] == numbers.out_spec[0] == 0 and x.ndim >= ndim + 1:
        lead, own = x.shape[: x.ndim - ndim - 1], x.shape[x.ndim - ndim - 1 :]
        return x.reshape((math.prod(lead), *own)), lead
    _refuse(
        'x',
        'has the wrong number of axes',
        x.shape,
        f'{ndim + 2}, or any from {ndim + 1} on where the batch comes first',
        'Its spatial axes are as many as those of the kernel.',
    )


def _window(
    x: Any, kernel: Any, numbers: Any, strides: Any, padding: Any, lhs: Any, rhs: Any
) -> dict[str, Any]:
    """The settings in full, one entry for each spatial axis."""
    space = [x.shape[axis] for axis in numbers.lhs_spec[2:]]
    size = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    window = {
        'window_strides': _for_each('strides', strides, len(size)),
        'lhs_dilation': _for_each('lhs_dilation', lhs, len(size)),
        'rhs_dilation': _for_each('rhs_dilation', rhs, len(size)),
    }
    if isinstance(padding, str):
        if padding.upper() not in ('SAME', 'VALID') or max(window['lhs_dilation']) > 1:
            _refuse('padding', 'cannot be found', repr(padding), "'SAME' or 'VALID' and no "
                    'lhs_dilation, or pairs', 'Write out one pair for each axis.')  # fmt: skip
        spread = [(n - 1) * d + 1 for n, d in zip(size, window['rhs_dilation'], strict=True)]
        pads = jax.lax.padtype_to_pads(space, spread, window['window_strides'], padding.upper())
    else:
        pads = [tuple(pair) for pair in padding]
        if len(pads) != len(size) or any(len(pair) != 2 for pair in pads):
            _refuse('padding', 'does not fit the kernel', padding, f'{len(size)} pairs',
                    'Give a pair for each spatial axis.')  # fmt: skip
    return {**window, 'padding': tuple((int(low), int(high)) for low, high in pads)}


def _for_each(name: str, value: Any, ndim: int) -> tuple[int, ...]:
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim or any(v < 1 for v in values):
        _refuse(name, 'does not fit the kernel', value, f'{ndim} numbers from 1 on',
                'Give a number for each spatial axis, or one for all.')  # fmt: skip
    return values


def _refuse_kernel(x: Any, kernel: Any, groups: int) -> NoReturn:
    refuse_shapes(
        'conv', x, kernel,
        expected=f'x (..., channels, *space) and weight (out, channels / {groups}, *window) or as '
        f'dimension_numbers says, with out and channels in {groups} equal groups',
        fix='Check dimension_numbers and feature_group_count.',
    )  # fmt: skip


def _refuse(subject: str, problem: str, got: Any, expected: str, fix: str) -> NoReturn:
    raise ValueError(
        explain_error(
            f'conv {subject}', problem, got=f'{got}', expected=expected, fix=fix, code='ETC806'
        )
    )

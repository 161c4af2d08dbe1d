r"""Spikes with surrogate derivatives.

Each function is the Heaviside step $s = [v \ge 0]$ of a dimensionless `v`; only its derivative
is another. Neurons take any of them, or any function like them, as `spk_fun`; other
parameters are set with `functools.partial(surrogate.sigmoid_grad, alpha=10.0)`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    'arctan_grad',
    'gaussian_grad',
    'inv_square_grad',
    'multi_gaussian_grad',
    'rectangle_grad',
    'relu_grad',
    'sigmoid_grad',
    'slayer_grad',
]


def _heaviside(derivative: Callable[[Any], Any], v: Any) -> Any:
    return (v >= 0).astype(v.dtype)


_spike = jax.custom_jvp(_heaviside, nondiff_argnums=(0,))


@_spike.defjvp
def _spike_jvp(derivative: Callable[[Any], Any], primals: tuple, tangents: tuple) -> tuple:
    (v,), (v_dot,) = primals, tangents
    return _spike(derivative, v), derivative(v) * v_dot


def sigmoid_grad(v: Any, alpha: float = 4.0) -> Any:
    r"""Spike with the derivative of a sigmoid.

    $$\frac{\partial s}{\partial v} = \alpha\,\sigma(\alpha v)\,(1 - \sigma(\alpha v))$$

    Args:
        v: Distance to the threshold, of any shape.
        alpha: Steepness.

    References:
        Neftci, Mostafa, Zenke (2019). Surrogate gradient learning in spiking neural
        networks. IEEE Signal Processing Magazine 36(6).

    Example:
        >>> import jax
        >>> float(sigmoid_grad(0.0)), float(jax.grad(sigmoid_grad)(0.0))
        (1.0, 1.0)
    """

    def derivative(v: Any) -> Any:
        sigmoid = jax.nn.sigmoid(alpha * v)
        return alpha * sigmoid * (1 - sigmoid)

    return _spike(derivative, jnp.asarray(v))


def relu_grad(v: Any, alpha: float = 0.3, width: float = 1.0) -> Any:
    r"""Spike with a triangular derivative.

    $$\frac{\partial s}{\partial v} = \alpha \max(0,\, 1 - |v| / w)$$

    Args:
        v: Distance to the threshold, of any shape.
        alpha: Height of the triangle.
        width: Half of its base, $w$.

    References:
        Bellec, Salaj, Subramoney, Legenstein, Maass (2018). Long short-term memory and
        learning-to-learn in networks of spiking neurons. NeurIPS 31.

    Example:
        >>> import jax
        >>> float(relu_grad(-0.5)), round(float(jax.grad(relu_grad)(-0.5)), 4)
        (0.0, 0.15)
    """
    return _spike(lambda v: alpha * jnp.maximum(0, 1 - abs(v) / width), jnp.asarray(v))


def arctan_grad(v: Any, alpha: float = 2.0) -> Any:
    r"""Spike with the derivative of an arc tangent.

    $$\frac{\partial s}{\partial v} = \frac{\alpha / 2}{1 + (\pi \alpha v / 2)^2}$$

    Args:
        v: Distance to the threshold, of any shape.
        alpha: Steepness.

    References:
        Fang et al. (2021). Incorporating learnable membrane time constant to enhance
        learning of spiking neural networks. ICCV.

    Example:
        >>> import jax
        >>> float(arctan_grad(0.0)), float(jax.grad(arctan_grad)(0.0))
        (1.0, 1.0)
    """
    slope = math.pi / 2 * alpha
    return _spike(lambda v: alpha / 2 / (1 + (slope * v) ** 2), jnp.asarray(v))


def gaussian_grad(v: Any, sigma: float = 0.5, alpha: float = 0.5) -> Any:
    r"""Spike with a Gaussian derivative.

    $$\frac{\partial s}{\partial v}
    = \frac{\alpha}{\sqrt{2\pi}\,\sigma} \exp\!\left(-\frac{v^2}{2\sigma^2}\right)$$

    Args:
        v: Distance to the threshold, of any shape.
        sigma: Width.
        alpha: Area under the derivative.

    References:
        Yin, Corradi, Bohté (2021). Accurate and efficient time-domain classification with
        adaptive spiking recurrent neural networks. Nature Machine Intelligence 3.

    Example:
        >>> import jax
        >>> float(gaussian_grad(0.0)), round(float(jax.grad(gaussian_grad)(0.0)), 4)
        (1.0, 0.3989)
    """
    return _spike(lambda v: alpha * _gaussian(v, sigma), jnp.asarray(v))


def _gaussian(v: Any, sigma: float) -> Any:
    return jnp.exp(-((v / sigma) ** 2) / 2) / (math.sqrt(2 * math.pi) * sigma)


def multi_gaussian_grad(
    v: Any, sigma: float = 0.5, alpha: float = 0.5, h: float = 0.15, s: float = 6.0
) -> Any:
    r"""Spike with a Gaussian derivative that is negative on both sides.

    With the normal density $N_\sigma$,

    $$\frac{\partial s}{\partial v} = \alpha \big((1 + h)\, N_\sigma(v)
    - h\, N_{s\sigma}(v - \sigma) - h\, N_{s\sigma}(v + \sigma)\big)$$

    Args:
        v: Distance to the threshold, of any shape.
        sigma: Width.
        alpha: Scale.
        h: Height of the negative parts.
        s: Their width, relative to `sigma`.

    References:
        Yin, Corradi, Bohté (2021). Accurate and efficient time-domain classification with
        adaptive spiking recurrent neural networks. Nature Machine Intelligence 3.

    Example:
        >>> import jax
        >>> float(multi_gaussian_grad(0.0)), round(float(jax.grad(multi_gaussian_grad)(0.0)), 4)
        (1.0, 0.4391)
    """

    def derivative(v: Any) -> Any:
        sides = _gaussian(v - sigma, s * sigma) + _gaussian(v + sigma, s * sigma)
        return alpha * ((1 + h) * _gaussian(v, sigma) - h * sides)

    return _spike(derivative, jnp.asarray(v))


def inv_square_grad(v: Any, alpha: float = 10.0) -> Any:
    r"""Spike with the derivative of a fast sigmoid.

    $$\frac{\partial s}{\partial v} = \frac{1}{(1 + \alpha |v|)^2}$$

    Args:
        v: Distance to the threshold, of any shape.
        alpha: Steepness.

    References:
        Zenke, Ganguli (2018). SuperSpike: supervised learning in multilayer spiking neural
        networks. Neural Computation 30(6).

    Example:
        >>> import jax
        >>> float(inv_square_grad(0.1)), float(jax.grad(inv_square_grad)(0.1))
        (1.0, 0.25)
    """
    return _spike(lambda v: 1 / (1 + alpha * abs(v)) ** 2, jnp.asarray(v))


def slayer_grad(v: Any, alpha: float = 1.0) -> Any:
    r"""Spike with a derivative that falls off exponentially.

    $$\frac{\partial s}{\partial v} = e^{-\alpha |v|}$$

    Args:
        v: Distance to the threshold, of any shape.
        alpha: Steepness.

    References:
        Shrestha, Orchard (2018). SLAYER: spike layer error reassignment in time. NeurIPS 31.

    Example:
        >>> import jax
        >>> float(slayer_grad(-1.0)), round(float(jax.grad(slayer_grad)(-1.0)), 4)
        (0.0, 0.3679)
    """
    return _spike(lambda v: jnp.exp(-alpha * abs(v)), jnp.asarray(v))


def rectangle_grad(v: Any, width: float = 1.0) -> Any:
    r"""Spike with a derivative that is constant around the threshold.

    $$\frac{\partial s}{\partial v} = \frac{1}{w}\, [\,|v| < w / 2\,]$$

    Args:
        v: Distance to the threshold, of any shape.
        width: Width of the rectangle, $w$.

    References:
        Wu, Deng, Li, Zhu, Shi (2018). Spatio-temporal backpropagation for training
        high-performance spiking neural networks. Frontiers in Neuroscience 12.

    Example:
        >>> import jax
        >>> float(rectangle_grad(0.2)), float(jax.grad(rectangle_grad)(0.2))
        (1.0, 1.0)
    """
    return _spike(lambda v: (abs(v) < width / 2).astype(v.dtype) / width, jnp.asarray(v))

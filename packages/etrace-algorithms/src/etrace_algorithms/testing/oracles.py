"""What a gradient should be: backpropagation through time, and finite differences."""

from collections.abc import Callable, Mapping
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler.staging import all_states

__all__ = [
    'assert_gradients_close',
    'bptt_gradients',
    'finite_difference',
    'gradient_alignment',
    'online_gradients',
]

Gradients = Mapping[tuple[Any, ...], Any]
StepLoss = Callable[..., Any]


def bptt_gradients(
    model: brainstate.nn.Module, *sequences: Any, loss: StepLoss, stop_at: int | None = None
) -> dict[tuple[Any, ...], Any]:
    """Return the gradient of the summed losses of a sequence by backpropagation through time.

    The states of the model are left as they were before the call.

    Args:
        model: A module whose states are initialised.
        *sequences: Pytrees of arrays with time on the first axis; the model takes one slice.
        loss: Function of the model's output (and of nothing else), a scalar.
        stop_at: Detach the states every so many steps: truncated backpropagation. The length
            must be a multiple of it.

    Returns:
        Gradients by path of the parameter.
    """
    states = all_states(model)
    kept = {k: s.value for k, s in states.items()}
    params: Any = {k: s for k, s in states.items() if isinstance(s, brainstate.ParamState)}
    passing = [s for s in states.values() if isinstance(s, brainstate.ShortTermState)]

    def total() -> Any:
        if stop_at is None:
            losses = brainstate.transform.for_loop(lambda *x: loss(model(*x)), *sequences)
            return jnp.sum(losses)

        def window(*xs: Any) -> Any:
            for state in passing:
                state.value = jax.lax.stop_gradient(state.value)
            return brainstate.transform.for_loop(lambda *x: loss(model(*x)), *xs)

        chunks = jax.tree.map(lambda x: x.reshape((-1, stop_at, *x.shape[1:])), sequences)
        return jnp.sum(brainstate.transform.for_loop(window, *chunks))

    grad: Any = brainstate.transform.grad(total, params, check_states=False)
    jitted: Any = brainstate.transform.jit(grad)
    gradients = jitted()
    for key, state in states.items():
        state.value = kept[key]
    return gradients


def online_gradients(learner: Any, *sequences: Any, loss: StepLoss, **options: Any) -> Gradients:
    """Return the summed online gradient of a sequence, from a learner that is compiled.

    Args:
        learner: A learner.
        *sequences: Pytrees of arrays with time on the first axis.
        loss: Function of the model's output, a scalar.
        **options: Passed to `etrace_grad`.
    """

    def run() -> Any:
        return learner.etrace_grad(
            *sequences, step_fn=lambda *x: loss(learner(*x)), reduction='sum', **options
        )

    jitted: Any = brainstate.transform.jit(run)
    return jitted()


def finite_difference(function: Callable[[Any], Any], value: Any, step: float = 1e-6) -> Any:
    """Return the gradient of a scalar function of one array by central differences.

    Args:
        function: Scalar function.
        value: Float64 array to differentiate at.
        step: Half the distance of the two evaluations.
    """
    value = np.asarray(value)
    out = np.zeros(value.shape)
    for index in np.ndindex(*value.shape):
        ahead, behind = value.copy(), value.copy()
        ahead[index] += step
        behind[index] -= step
        out[index] = (float(function(ahead)) - float(function(behind))) / (2 * step)
    return out


def gradient_alignment(a: Gradients, b: Gradients) -> tuple[float, float]:
    """Return the cosine between two gradients and the ratio of their norms.

    Example:
        >>> gradient_alignment({('w',): jnp.ones(2)}, {('w',): 2 * jnp.ones(2)})
        (1.0, 0.5)
    """
    x, y = (
        np.concatenate([_flat(v) for k in sorted(g, key=str) for v in jax.tree.leaves(g[k])])
        for g in (a, b)
    )
    norms = np.linalg.norm(x), np.linalg.norm(y)
    cosine = np.vdot(x, y).real / max(norms[0] * norms[1], 1e-300)
    return round(float(cosine), 12), round(float(norms[0] / max(norms[1], 1e-300)), 12)


def _flat(value: Any) -> np.ndarray:
    wide = np.complex128 if np.iscomplexobj(value) else np.float64
    return np.ravel(np.asarray(value)).astype(wide)


def assert_gradients_close(
    actual: Gradients, expected: Gradients, rtol: float = 1e-9, atol: float | None = None
) -> None:
    """Check that two gradients agree, parameter by parameter and element by element.

    Args:
        actual: Gradients by path.
        expected: Gradients by path; every parameter in it must be in `actual`.
        rtol: Relative tolerance.
        atol: Absolute tolerance; by default `rtol` times the largest entry of each array.

    Raises:
        AssertionError: If a parameter is missing or differs; the message names it.
    """
    missing = set(expected) - set(actual)
    assert not missing, f'no gradient for {sorted(missing, key=str)}'
    for path, want in expected.items():
        leaves = zip(jax.tree.leaves(actual[path]), jax.tree.leaves(want), strict=True)
        for got, wanted in leaves:
            slack = rtol * float(np.max(np.abs(wanted), initial=0)) if atol is None else atol
            np.testing.assert_allclose(
                np.asarray(got), np.asarray(wanted), rtol=rtol, atol=slack, err_msg=str(path)
            )

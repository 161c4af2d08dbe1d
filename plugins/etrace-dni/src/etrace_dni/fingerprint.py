"""What a predictor was fitted on, and that it is used on nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_compiler import jaxpr_fingerprint
from etrace_dni.predictor import Predictor

__all__ = ['FittedPredictor', 'check_method', 'check_same', 'loss_fingerprint']


@dataclass(frozen=True, eq=False)
class FittedPredictor:
    """A predictor, and what it was fitted on; it can be pickled.

    Attributes:
        predictor: Its form.
        weights: Its weights, per hidden group.
        model: Fingerprint of the compiled model.
        loss: Fingerprint of the step function, the model within and the shapes of its arguments.
        window: Steps per window.
    """

    predictor: Predictor
    weights: Any
    model: str
    loss: str
    window: int

    def with_weights(self, weights: Any) -> 'FittedPredictor':
        """Return it with other weights."""
        return replace(self, weights=weights)


def loss_fingerprint(step_fn: Callable[..., Any], sequences: tuple) -> str:
    """Return the same text for the same step function, in every process.

    Args:
        step_fn: The user's function of one step.
        sequences: Its arguments, stacked over time; shapes and dtypes count.
    """
    slices = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), sequences
    )
    step = brainstate.transform.StatefulFunction(step_fn, return_only_write=False)
    step.make_jaxpr(*slices)
    return jaxpr_fingerprint(step.get_jaxpr(*slices))


def check_same(subject: str, got: Any, expected: Any) -> None:
    """Check that a fitted predictor meets what it was fitted on.

    Raises:
        ValueError: If it does not.
    """
    if got != expected:
        raise ValueError(
            f'`{subject}` is not the one that the predictor was fitted on: got {got}; expected '
            f'{expected}. A synthetic gradient is worth nothing elsewhere: fit again after '
            '`learner.reset_predictor()`, or use another learner.'
        )


def check_method(vjp_method: str) -> None:
    """Check that windows are differentiated as a whole.

    Raises:
        ValueError: If each step is to be credited alone.
    """
    if vjp_method != 'multi-step':
        raise ValueError(
            f"`vjp_method` cannot be chosen here: got {vjp_method!r}; expected 'multi-step'. "
            'Synthetic gradients stand at the ends of windows; chunk_size=1 gives windows of one '
            'step.'
        )

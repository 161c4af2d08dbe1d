"""What several of the rules need."""

from collections.abc import Mapping
from typing import Any

import jax

from etrace_algorithms import Gradients, LearningSignal, Linearisation
from etrace_algorithms.algebra import outer
from etrace_algorithms.rule import one_step_gradients

__all__ = ['check_leak', 'leaky_sum', 'past', 'step_traces']


def check_leak(name: str, value: Any) -> None:
    """Check a factor by which something decays in every step.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(
            f'`{name}` is out of range: got {value}; expected 0 <= {name} <= 1. '
            'Use exp(-dt/tau) of a time constant tau, or 1 - dt/tau, whichever the model has.'
        )


def step_traces(lin: Linearisation) -> dict[str, Any]:
    r"""Return what one step adds to full traces, $f_t \otimes x_t$, by relation key."""
    return {
        r.key: tuple(outer(f, lin.x[r.key], r.substeps) for f in lin.f[r.key])
        for r in lin.relations
    }


def leaky_sum(leak: float, held: Any, new: Any) -> Any:
    """Return `leak * held + new` in the dtype of what is held."""
    return jax.tree.map(lambda old, now: (leak * old + now).astype(old.dtype), held, new)


def past(
    total: Gradients, lin: Linearisation, signal: LearningSignal, beside: Mapping[str, Any]
) -> Gradients:
    """Return a trace's credit without the step's own part, plus what passes the new states by."""
    now = one_step_gradients(lin, signal)
    return {key: total[key] - now[key] + beside.get(key, 0) for key in total}

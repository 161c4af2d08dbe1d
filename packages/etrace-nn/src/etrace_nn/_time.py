"""Time: the step of the simulation, and what a time constant makes of it."""

import math
from typing import Any

import brainstate
import brainunit as u

from etrace_compiler.errors import explain_error
from etrace_nn._values import marked

__all__ = ['decay_of', 'steps_of']


def decay_of(tau: Any, dt: Any, subject: str) -> Any:
    r"""Compute $e^{-\Delta t/\tau}$; see `steps_of`.

    Example:
        >>> import brainunit as u
        >>> round(decay_of(10 * u.ms, 1 * u.ms, 'tau'), 4)
        0.9048
    """
    ratio = steps_of(tau, dt, subject)
    # A number stays a number: no equation in the traced step, and no dtype of its own.
    return math.exp(-ratio) if isinstance(ratio, int | float) else u.math.exp(-ratio)


def steps_of(tau: Any, dt: Any, subject: str) -> Any:
    r"""Compute $\Delta t/\tau$.

    Args:
        tau: Time constant; a `ParamState` is marked as a trainable parameter per position.
        dt: Time step, or `None` for the one of `brainstate.environ`.
        subject: Name of the time constant, for the error message.

    Raises:
        ValueError: If there is no time step, or it and `tau` differ in unit.
    """
    dt = brainstate.environ.get('dt', default=None) if dt is None else dt
    if dt is None:
        raise ValueError(
            explain_error(
                'dt',
                'is not set',
                got='no time step',
                expected='a time such as 1 * brainunit.ms',
                fix='Use brainstate.environ.set(dt=...), `with brainstate.environ.context(dt=...)` '
                'or the argument `dt` of the layer.',
                code='ETC606',
            )
        )
    tau = marked(tau)
    if not u.have_same_dim(tau, dt):
        raise ValueError(
            explain_error(
                'dt',
                f'and `{subject}` have different units',
                got=f'dt in [{u.get_unit(dt)}]',
                expected=f'[{u.get_unit(tau)}], the unit of {subject}',
                fix='Give both a time, such as 1 * brainunit.ms.',
                code='ETC607',
            )
        )
    return dt / tau

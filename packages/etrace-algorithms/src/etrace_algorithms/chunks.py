"""How many steps a window has."""

import numbers
from dataclasses import dataclass
from typing import Any

from etrace_algorithms.memory import parse_bytes
from etrace_algorithms.validation import warn_user
from etrace_compiler.errors import explain_error

__all__ = ['Budget', 'check_chunk', 'warn_of_steps']

#: What a window may take where nothing is said: as much as the trace, which is passed over once
#: per window; and this much in any case, about what a cache holds.
_LEAST = 32 * 2**20
#: Beyond, a longer window saves nothing.
_MOST = 256
#: What was not asked for may be exceeded by so much, to divide a sequence evenly.
_SLACK = 1.2


@dataclass(frozen=True)
class Budget:
    """Bytes that one window may take; `None` to make it fit the trace."""

    bytes: int | None = None

    def steps(self, per_step: int, length: int, trace: int = 0) -> int:
        """Return how many steps fit.

        Windows are made equal where that costs less than half of their length: a shorter last
        one is compiled apart.

        Args:
            per_step: Bytes of one step.
            length: Steps of the sequence.
            trace: Bytes of the trace.
        """
        limit = _SLACK * max(_LEAST, trace) if self.bytes is None else self.bytes
        most = max(1, min(int(limit // max(per_step, 1)), length, _MOST))
        equal = next(k for k in range(most, 0, -1) if length % k == 0)
        return equal if 2 * equal > most else most


def check_chunk(chunk_size: Any, vjp_method: str) -> int | Budget:
    """Read the argument `chunk_size`.

    Args:
        chunk_size: Steps, `'auto'`, a number of bytes as text, or `None` for the default.
        vjp_method: That of the learner.

    Raises:
        ValueError: If it is neither.
    """
    single = vjp_method == 'single-step'
    if chunk_size is None:
        return Budget() if single else 1
    is_integer = isinstance(chunk_size, numbers.Integral) and not isinstance(chunk_size, bool)
    if is_integer and int(chunk_size) >= 1:
        return int(chunk_size)
    if isinstance(chunk_size, str) and single:
        if chunk_size == 'auto':
            return Budget()
        try:
            return Budget(parse_bytes(chunk_size))
        except ValueError:
            pass
    sizes = ", 'auto', or the bytes that a window may take such as '64 MB'" if single else ''
    raise ValueError(
        explain_error(
            'chunk_size',
            'is out of range',
            got=repr(chunk_size),
            expected=f'None, or an integer of at least 1{sizes}',
            fix='Leave it out.',
            code='ETA108',
        )
    )


def warn_of_steps(chunk_size: int, reason: Exception) -> None:
    """Warn that windows were asked for and the steps are run one by one."""
    code = 'ETA111'
    message = (
        f'chunk_size={chunk_size}: the steps are run one by one, because of step_fn: {reason}. '
        f'The gradients are the same; chunk_size=1 says that this is meant. [{code}]'
    )
    warn_user(message)

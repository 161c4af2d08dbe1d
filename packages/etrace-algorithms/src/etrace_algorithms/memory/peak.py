"""`PeakMemory`: what a compiled loop over a sequence needs at once."""

from dataclasses import dataclass
from typing import Any

from etrace_algorithms.memory.units import size_text

__all__ = ['PeakMemory']


@dataclass(frozen=True)
class PeakMemory:
    """Bytes that a compiled program needs at once, as XLA accounts for them.

    Attributes:
        arguments: Sequences, parameters, states and the trace that go in.
        results: Gradients, losses, states and the trace that come out.
        temporary: What lies in between.
        shared: What of the results stands in the place of an argument: the trace.
    """

    arguments: int
    results: int
    temporary: int
    shared: int

    @property
    def total(self) -> int:
        """All of it, what is shared counted once."""
        return self.arguments + self.results + self.temporary - self.shared

    @classmethod
    def of(cls, compiled: Any) -> 'PeakMemory':
        """Read the account of a compiled function of JAX."""
        found = compiled.memory_analysis()
        kinds = ('argument', 'output', 'temp', 'alias')
        return cls(*(int(getattr(found, f'{kind}_size_in_bytes')) for kind in kinds))

    def __str__(self) -> str:
        parts = ('arguments', 'results', 'temporary', 'shared')
        told = ', '.join(f'{part} {size_text(getattr(self, part))}' for part in parts)
        return f'{size_text(self.total)} at once ({told})'

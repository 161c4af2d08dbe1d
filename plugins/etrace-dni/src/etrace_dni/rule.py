"""No trace: what is to come is predicted, and what was before gives no credit."""

from dataclasses import dataclass

from etrace_algorithms import Exactness
from etrace_algorithms.rules import ImmediateDerivatives

__all__ = ['NoPast']


@dataclass(frozen=True)
class NoPast(ImmediateDerivatives):
    """The rule inside `SyntheticGradients`.

    A trace would credit a weight for the same later loss a second time.
    """

    @property
    def exactness(self) -> Exactness:
        """With a prediction the gradient is more than that of single windows."""
        return Exactness.APPROXIMATE

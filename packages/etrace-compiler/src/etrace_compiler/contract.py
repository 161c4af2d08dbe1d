"""What the online gradient of every weight is worth, as plain data.

The words are those of the reference learner, `D_RTRL` with single steps, and of the gradient of a
sum of losses, each a function of the output and of the new hidden states of its step.
"""

from dataclasses import dataclass
from enum import StrEnum

from etrace_compiler._jax import SourceLine
from etrace_compiler.diagnostics import DiagnosticKind

__all__ = ['Dropped', 'GroupExactness', 'Verdict', 'WeightExactness', 'worst']

Path = tuple[str, ...]


class Verdict(StrEnum):
    """What an online gradient is worth.

    Attributes:
        EXACT: Equal to that of backpropagation through time, for sequences of every length.
        WITHIN_LAYER: Equal to it where the states of the groups that the weight does not drive
            pass no derivative from step to step: what crosses to another group and is carried
            on there is dropped.
        APPROXIMATE: Something is dropped on the way to a group, within it, or beside it.
        ZERO: The weight reaches neither an output nor a hidden state.
    """

    EXACT = 'exact'
    WITHIN_LAYER = 'exact within the layer'
    APPROXIMATE = 'approximate'
    ZERO = 'zero'


@dataclass(frozen=True)
class Dropped:
    """One dependency that the online gradient does not follow.

    Attributes:
        reason: Kind of the record that tells of it in general.
        primitive: Name of the operation where it is lost.
        source: The user's line of this operation.
        message: One sentence about this case.
        hidden_paths: Paths of the states concerned.
    """

    reason: DiagnosticKind
    primitive: str | None
    source: SourceLine | None
    message: str
    hidden_paths: tuple[Path, ...]

    def __str__(self) -> str:
        place = f'\n    at {self.source}' if self.source else ''
        return f'{self.message}{place}'


@dataclass(frozen=True)
class GroupExactness:
    """What becomes of a weight's influence on one hidden group that it drives.

    Attributes:
        index: Index of the group.
        hidden_paths: Paths of its states.
        verdict: What the group's part of the gradient is worth.
        dropped: What is not followed.
    """

    index: int
    hidden_paths: tuple[Path, ...]
    verdict: Verdict
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class WeightExactness:
    """What the online gradient of one parameter is worth.

    Attributes:
        weight_path: Path of the parameter.
        verdict: The worst verdict of its groups, and of what it reaches beside them.
        groups: The groups that it drives by itself, not by way of another group.
        dropped: Everything that is not followed, that of the groups included.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> found = compile_etrace_graph(cell, jnp.ones(3)).exactness['Wh.weight']
        >>> str(found.verdict), [str(d.reason) for d in found.dropped]
        ('approximate', ['recurrence_cut'])
    """

    weight_path: Path
    verdict: Verdict
    groups: tuple[GroupExactness, ...] = ()
    dropped: tuple[Dropped, ...] = ()


_ORDER = (Verdict.ZERO, Verdict.EXACT, Verdict.WITHIN_LAYER, Verdict.APPROXIMATE)


def worst(*verdicts: Verdict) -> Verdict:
    """Return the verdict that promises least.

    Example:
        >>> str(worst(Verdict.EXACT, Verdict.WITHIN_LAYER))
        'exact within the layer'
    """
    return max(verdicts, key=_ORDER.index)

"""What `check_gradients` finds, as data and as a table."""

from dataclasses import dataclass
from typing import Any

from etrace_algorithms.rule import Exactness
from etrace_compiler import Verdict, path_key
from etrace_compiler.terminal import paint

__all__ = ['GradientCheck', 'WeightCheck']

Path = tuple[Any, ...]

_COLOUR = {
    Verdict.EXACT: 'green',
    Verdict.WITHIN_LAYER: 'cyan',
    Verdict.APPROXIMATE: 'yellow',
    Verdict.ZERO: 'red',
}


@dataclass(frozen=True)
class WeightCheck:
    """The two gradients of one parameter, side by side.

    Attributes:
        weight_path: Path of the parameter.
        verdict: What the compiler says that the online gradient is worth.
        online_norm: Norm of the learner's gradient.
        bptt_norm: Norm of the gradient of backpropagation through time.
        cosine: Cosine of the angle between them; 0 where one of them is zero, 1 where both are.
        relative_error: Norm of their difference, relative to `bptt_norm`.
        promised_error: The same with respect to what is promised: backpropagation, or that with
            the states of other layers detached between steps; `None` without a promise.
        kept: Whether the promise is kept; `None` without one.
    """

    weight_path: Path
    verdict: Verdict
    online_norm: float
    bptt_norm: float
    cosine: float
    relative_error: float
    promised_error: float | None
    kept: bool | None


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found; `print` shows it as a table.

    Attributes:
        learner: Name of the learner's class.
        promise: What its rule promises, `None` where it has no rule.
        steps: Number of steps.
        window: Number of steps that ordinary automatic differentiation runs over.
        tolerance: Largest relative error that counts as rounding.
        weights: One row per parameter.
    """

    learner: str
    promise: Exactness | None
    steps: int
    window: int
    tolerance: float
    weights: tuple[WeightCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether no promise is broken."""
        return all(row.kept is not False for row in self.weights)

    def to_str(self, coloured: bool = False) -> str:
        """Write the table.

        Args:
            coloured: Whether to use the colours of a terminal.
        """
        head = ('weight', 'verdict', '|online|', '|BPTT|', 'cosine', 'rel. error', 'kept')
        rows: list[tuple[str, ...]] = [head, *map(_cells, self.weights)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        styles = [('bold', 'bold')]
        styles += [
            (_COLOUR[w.verdict], {None: 'bold', True: 'green', False: 'red'}[w.kept])
            for w in self.weights
        ]
        lines = []
        for row, (of_verdict, of_kept) in zip(rows, styles, strict=True):
            text = [cell.ljust(n) for cell, n in zip(row[:2], widths[:2], strict=True)]
            text += [cell.rjust(n) for cell, n in zip(row[2:], widths[2:], strict=True)]
            text[1] = paint(text[1], of_verdict, coloured)
            text[-1] = paint(text[-1], of_kept, coloured)
            lines.append('  '.join(text))
        length = f'{self.steps} step{"s" if self.steps > 1 else ""}'
        return '\n'.join([f'{self.learner} beside BPTT, {length}', *lines, self._note()])

    def _note(self) -> str:
        """What `kept` means in this table."""
        near = f'up to {self.tolerance:.0e}'
        if self.steps <= self.window:
            return f'There is no history: kept means equal to BPTT {near}.'
        if self.promise is Exactness.EXACT:
            return f'kept: equal to BPTT {near}.'
        if self.promise is Exactness.EXACT_DIAGONAL:
            note = f'kept: exact means equal to BPTT {near}'
            within = any(w.verdict is Verdict.WITHIN_LAYER and w.kept is not None
                         for w in self.weights)  # fmt: skip
            layers = '; exact within the layer, to BPTT\nwith the states of all other layers '
            return f'{note}{layers}detached between steps.' if within else f'{note}.'
        return f'The rule promises: {self.promise or "nothing"}. There is nothing to be kept.'

    def __str__(self) -> str:
        return self.to_str()


def _cells(w: WeightCheck) -> tuple[str, ...]:
    return (
        path_key(w.weight_path),
        str(w.verdict),
        f'{w.online_norm:.3e}',
        f'{w.bptt_norm:.3e}',
        f'{w.cosine:.6f}',
        f'{w.relative_error:.1e}',
        {None: '-', True: 'yes', False: 'NO'}[w.kept],
    )

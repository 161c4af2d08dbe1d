"""A plan as a table of one screen."""

from collections.abc import Sequence
from typing import Any

from etrace_algorithms.memory.units import count_text, size_text

__all__ = ['align', 'format_plan']

_ROWS = 12
_COLUMNS = 5


def format_plan(plan: Any) -> str:
    """Write a `MemoryPlan` as text: the model, the learners, the largest traces by weight."""
    lines = [
        f'parameters {size_text(plan.parameter_bytes)}, states {size_text(plan.state_bytes)}; '
        f'marked operators: {count_text(plan.step_multiply_adds)} multiply-adds a step',
        '',
        *align(_learner_rows(plan), left=2),
    ]
    if plan.budget is not None:
        found = f'the most accurate that fits is {plan.best}' if plan.best else 'nothing fits'
        lines += ['', f'budget {size_text(plan.budget)}: {found}']
    if plan.weights and any(cost.trace_bytes for cost in plan.learners):
        lines += ['', *align(_weight_rows(plan), left=1)]
    lines += [f'not measured: {name}: {reason}' for name, reason in plan.skipped.items()]
    return '\n'.join(lines)


def _learner_rows(plan: Any) -> list[list[str]]:
    head = ['LEARNER', 'EXACTNESS', 'TRACE', 'WITH MODEL', 'MULTIPLY-ADDS', 'MOVED/STEP']
    rows = [head if plan.budget is None else [*head, 'FITS']]
    for cost in plan.learners:
        row = [
            cost.name,
            cost.exactness,
            size_text(cost.trace_bytes),
            size_text(plan.total_bytes(cost.name)),
            count_text(cost.update_multiply_adds),
            size_text(cost.moved_bytes),
        ]
        if plan.budget is not None:
            row.append('yes' if plan.fits(cost.name) else 'no')
        rows.append(row)
    return rows


def _weight_rows(plan: Any) -> list[list[str]]:
    """Rows for the weights with the largest traces, one for the others, one for what is shared."""
    shown = sorted(plan.learners, key=lambda cost: -cost.trace_bytes)[:_COLUMNS]
    costs = [cost for cost in plan.learners if cost in shown and cost.trace_bytes]
    keys = sorted(plan.weights, key=lambda k: -max(cost.by_relation[k] for cost in costs))
    few = keys if len(keys) <= _ROWS else keys[: _ROWS - 1]
    rows = [['TRACE OF', *(cost.name for cost in costs)]]
    rows += [[key, *(size_text(cost.by_relation[key]) for cost in costs)] for key in few]
    if rest := keys[len(few) :]:
        sums = (sum(cost.by_relation[key] for key in rest) for cost in costs)
        rows.append([f'{len(rest)} smaller ones', *map(size_text, sums)])
    if any(cost.shared_bytes for cost in costs):
        rows.append(['shared', *(size_text(cost.shared_bytes) for cost in costs)])
    return rows


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Pad columns to their widest cell: the first ones to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        '  '.join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

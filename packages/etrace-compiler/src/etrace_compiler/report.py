"""The compiled graph in words."""

import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TextIO

from etrace_compiler.contract import Verdict, WeightExactness
from etrace_compiler.diagnostics import TABLE, CompilationRecord, DiagnosticKind, DiagnosticLevel
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.staging import path_key
from etrace_compiler.terminal import is_coloured, paint

__all__ = ['CompilationReport', 'describe_graph']

_NO_TRACE = (
    DiagnosticKind.PARAMETER_UNUSED,
    DiagnosticKind.PARAMETER_UNMARKED,
    DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE,
    DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT,
    DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL,
    DiagnosticKind.PARAMETER_ONE_STEP,
)

_COLOUR_OF_LEVEL = {
    DiagnosticLevel.INFO: 'cyan',
    DiagnosticLevel.WARNING: 'yellow',
    DiagnosticLevel.ERROR: 'red',
}
_COLOUR_OF_VERDICT = {
    Verdict.EXACT: 'green',
    Verdict.WITHIN_LAYER: 'cyan',
    Verdict.APPROXIMATE: 'yellow',
    Verdict.ZERO: 'red',
}


class CompilationReport:
    """What the compiler found, as data and as text.

    Args:
        graph: A compiled graph.
    """

    def __init__(self, graph: ETraceGraph):
        self._graph = graph

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompilationReport) and self._graph == other._graph

    def __hash__(self) -> int:
        return hash(self._graph)

    @property
    def hidden_groups(self) -> tuple[tuple[str, ...], ...]:
        """Keys of the hidden states, group by group."""
        return tuple(tuple(map(path_key, g.hidden_paths)) for g in self._graph.hidden_groups)

    @property
    def etrace_weights(self) -> dict[str, tuple[int, ...]]:
        """Keys of the parameters with a trace, and the groups they drive."""
        found: dict[str, dict[int, None]] = {}
        for relation in self._graph.hidden_param_op_relations:
            for path in relation.trainable_paths:
                groups = found.setdefault(path_key(path), {})
                groups.update((g.index, None) for g in relation.hidden_groups)
        return {key: tuple(groups) for key, groups in found.items()}

    @property
    def excluded_weights(self) -> dict[str, str]:
        """Keys of the parameters without a trace, and the reason."""
        out = {}
        for path in self._graph.module_info.parameter_paths:
            if path_key(path) not in self.etrace_weights:
                records = [r for r in self._graph.explain(weight_path=path) if r.kind in _NO_TRACE]
                records.sort(key=lambda r: _NO_TRACE.index(r.kind))
                out[path_key(path)] = records[0].message if records else 'no marked operation'
        return out

    @property
    def dynamic_states(self) -> tuple[str, ...]:
        """Keys of the states that are neither parameters nor hidden states."""
        return tuple(spec.key for spec in self._graph.module_info.by_role('other'))

    @property
    def exactness(self) -> Mapping[str, WeightExactness]:
        """What the online gradient of each parameter is worth, by parameter key."""
        return self._graph.exactness

    @property
    def diagnostics(self) -> tuple[CompilationRecord, ...]:
        """Every decision."""
        return self._graph.diagnostics

    @property
    def counts(self) -> dict[str, int]:
        """Number of records per level."""
        return {
            str(level): sum(r.level == level for r in self.diagnostics) for level in DiagnosticLevel
        }

    def to_str(
        self, level: DiagnosticLevel | str = DiagnosticLevel.WARNING, coloured: bool = False
    ) -> str:
        """Describe the graph, say what each gradient is worth, and list records.

        Args:
            level: The lowest level of the records. Records that tell the same of one line are
                told once, except with `'info'`, which lists everything.
            coloured: Whether to use the colours of a terminal.
        """
        order = list(DiagnosticLevel)
        lowest = order.index(DiagnosticLevel(level))
        shown = [r for r in self.diagnostics if order.index(r.level) >= lowest]
        folded = [[r] for r in shown] if lowest == 0 else _alike(shown)
        return '\n'.join(
            [
                describe_graph(self._graph),
                *_exactness_lines(self.exactness, coloured),
                *(_record_text(records, coloured) for records in folded),
            ]
        )

    def show(
        self, level: DiagnosticLevel | str = DiagnosticLevel.WARNING, file: TextIO | None = None
    ) -> None:
        """Print the report, in colours on a terminal unless `NO_COLOR` is set.

        Args:
            level: The lowest level of the records.
            file: Where to print; standard output by default.
        """
        where: TextIO = sys.stdout if file is None else file
        print(self.to_str(level, is_coloured(where)), file=where)


def _alike(records: Sequence[CompilationRecord]) -> list[list[CompilationRecord]]:
    """Put records together that tell the same of one line."""
    found: dict[tuple, list[CompilationRecord]] = {}
    for n, r in enumerate(records):
        place = n if r.source is None else (r.primitive, r.source)
        found.setdefault((r.kind, place), []).append(r)
    return list(found.values())


def _record_text(records: Sequence[CompilationRecord], coloured: bool) -> str:
    text, first = str(records[0]), records[0]
    head = f'{first.code} {first.level}'
    text = paint(head, _COLOUR_OF_LEVEL[first.level], coloured) + text.removeprefix(head)
    more = len(records) - 1
    return f'{text}\n    and {more} more like this at this line' if more else text


def _exactness_lines(exactness: Mapping[str, WeightExactness], coloured: bool) -> list[str]:
    """One line for weights of one module with one verdict, and the codes that say why."""
    folded: dict[tuple, list[WeightExactness]] = {}
    for weight in exactness.values():
        groups = tuple(g.index for g in weight.groups)
        module = groups or tuple(map(str, weight.weight_path[:-1]))
        folded.setdefault((weight.verdict, module), []).append(weight)
    lines = ['Exactness, learning with D_RTRL:'] if folded else []
    for (verdict, _), weights in folded.items():
        codes = dict.fromkeys(TABLE[d.reason].code for w in weights for d in w.dropped)
        why = f'  ({", ".join(sorted(codes))})' if codes else ''
        word = paint(f'{verdict:<22}', _COLOUR_OF_VERDICT[verdict], coloured)
        lines.append(f'  {word}  {_together(weights)}{why}')
    return lines


def _together(weights: Sequence[WeightExactness]) -> str:
    """Name weights by what their paths have in common and what each adds."""
    paths = [tuple(map(str, w.weight_path)) for w in weights]
    shared: tuple[str, ...] = ()
    if len(paths) > 1:
        parents = zip(*(p[:-1] for p in paths), strict=False)
        alike = takewhile(lambda parts: len(set(parts)) == 1, parents)
        shared = tuple(parts[0] for parts in alike)
    names = [path_key(p[len(shared) :]) for p in paths]
    listed = ', '.join(names[:6]) + (f', and {len(names) - 6} more' if len(names) > 6 else '')
    return f'{path_key(shared)}: {listed}' if shared else listed


def describe_graph(graph: ETraceGraph) -> str:
    """Describe groups, states, weights with a trace, and weights without one and why."""
    report = CompilationReport(graph)
    lines = ['Hidden groups:']
    for group in graph.hidden_groups:
        names = ', '.join(map(path_key, group.hidden_paths))
        lines.append(f'  {group.index}: {names}  {list(group.varshape)}, S={group.num_state}')
    if report.dynamic_states:
        lines.append('Dynamic (non-hidden) states:')
        lines.extend(f'  {key}' for key in report.dynamic_states)
    if report.etrace_weights:
        lines.append('Weights with a trace:')
        lines.extend(
            f'  {key} -> {"groups" if len(groups) > 1 else "group"} {", ".join(map(str, groups))}'
            for key, groups in report.etrace_weights.items()
        )
    if report.excluded_weights:
        lines.append('Weights without a trace:')
        lines.extend(f'  {key}: {reason}' for key, reason in report.excluded_weights.items())
    return '\n'.join(lines)

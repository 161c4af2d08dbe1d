"""The compiled graph in words."""

from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, DiagnosticLevel
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.staging import path_key

__all__ = ['CompilationReport', 'describe_graph']

_NO_TRACE = (
    DiagnosticKind.PARAMETER_UNUSED,
    DiagnosticKind.PARAMETER_UNMARKED,
    DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE,
    DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT,
    DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL,
    DiagnosticKind.PARAMETER_ONE_STEP,
)


class CompilationReport:
    """What the compiler found, as data and as text.

    Args:
        graph: A compiled graph.
    """

    def __init__(self, graph: ETraceGraph):
        self._graph = graph

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
    def diagnostics(self) -> tuple[CompilationRecord, ...]:
        """Every decision."""
        return self._graph.diagnostics

    @property
    def counts(self) -> dict[str, int]:
        """Number of records per level."""
        return {
            str(level): sum(r.level == level for r in self.diagnostics) for level in DiagnosticLevel
        }

    def to_str(self, level: DiagnosticLevel | str = DiagnosticLevel.WARNING) -> str:
        """Describe the graph and list the records from a level upwards."""
        order = list(DiagnosticLevel)
        lowest = order.index(DiagnosticLevel(level))
        shown = [str(r) for r in self.diagnostics if order.index(r.level) >= lowest]
        return '\n'.join([describe_graph(self._graph), *shown])

    def show(self, level: DiagnosticLevel | str = DiagnosticLevel.WARNING, file=None) -> None:
        """Print the report."""
        print(self.to_str(level), file=file)


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

"""Marked operations and parameters: which of them share a box, and what becomes of them."""

from collections.abc import Sequence
from typing import Any

from etrace_compiler.diagnostics import TABLE, DiagnosticKind
from etrace_compiler.drawing._items import operator_item, state_items
from etrace_compiler.drawing._legs import Anchor, Legs, place_of
from etrace_compiler.drawing._nodes import Draft
from etrace_compiler.drawing._picture import Item
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.relation import HiddenParamOpRelation
from etrace_compiler.staging import path_key

__all__ = ['Weights']

Path = tuple[Any, ...]

#: Why a weight has no trace, the graver reasons first.
_OF_OPERATORS = (
    DiagnosticKind.TRAINABLE_INVAR_NOT_PARAMSTATE,
    DiagnosticKind.RELATION_EXCLUDED_WEIGHT_TO_WEIGHT,
    DiagnosticKind.RELATION_EXCLUDED_NON_TEMPORAL,
)
_OF_PARAMETERS = (
    DiagnosticKind.WEIGHT_IN_WHILE,
    DiagnosticKind.PRIMITIVE_INSIDE_CONTROL_FLOW,
    DiagnosticKind.PARAMETER_UNMARKED,
    DiagnosticKind.PARAMETER_ONE_STEP,
)


class Weights:
    """The operators and the parameters of a graph.

    Args:
        graph: A compiled graph.
        legs: Its legs.
    """

    def __init__(self, graph: ETraceGraph, legs: Legs):
        self._graph = graph
        self._legs = legs
        info = graph.module_info
        params = info.by_role('param')
        leaves = [(spec.path, item) for spec in params for item in state_items([spec])]
        self._leaves = {Anchor('parameter', i): leaf for i, leaf in enumerate(leaves)}
        relations = {r.y_var: r for r in graph.hidden_param_op_relations}
        self._relations: dict[Anchor, HiddenParamOpRelation | None] = {
            Anchor('operator', i): relations.get(info.program.equations[i].outputs[0])
            for i in sorted(legs.weights)
        }
        self._ways = [pair for pair, leg in legs.direct.items() if leg.passes]
        self._live = self._find_live()

    @property
    def drives(self) -> dict[Anchor, frozenset[int]]:
        """The groups that an operator drives with a trace."""
        return {
            anchor: frozenset(g.index for g in relation.hidden_groups)
            for anchor, relation in self._relations.items()
            if relation
        }

    def operators(self) -> list[Draft]:
        """Boxes of marked operations: those of one module that lead to the same places share one.

        The module of a weight with a trace is the one that holds the states that it drives too:
        the gates of a cell share a box.
        """
        drafts: dict[Any, Draft] = {}
        for anchor, relation in self._relations.items():
            if anchor not in self._live:
                continue
            weight = self._legs.weights[anchor.index]
            owners = [self._leaves[a] for a in sorted(weight, key=lambda a: a.index)]
            paths = list(dict.fromkeys(path for path, _ in owners))
            item = operator_item(self._graph, anchor.index, relation, [leaf for _, leaf in owners])
            if relation:
                module, code = _module(paths, relation), None
                key: Any = module, self.drives[anchor]
            else:
                module, code = _parent(paths), self._why_untraced(paths, item.place)
                key = module, code, frozenset(end for a, end in self._ways if a == anchor)
            draft = Draft('operator', path_key(module), (anchor.index, 0), code=code)
            draft = drafts.setdefault(key, draft)
            draft.items.append(item)
            draft.anchors.append(anchor)
        return list(drafts.values())

    def parameters(self) -> list[Draft]:
        """Boxes of parameters that act on something beside being the weight of an operation."""
        drafts: dict[Any, Draft] = {}
        for anchor, (path, item) in self._leaves.items():
            ends = [end for a, end in self._ways if a == anchor and self._counts(end)]
            if not ends:
                continue
            kinds = {r.kind: r.code for r in self._graph.explain(weight_path=path)}
            code = next((kinds[kind] for kind in _OF_PARAMETERS if kind in kinds), None)
            module = _parent([path])
            draft = Draft('parameter', path_key(module), (-1, anchor.index), code=code)
            draft = drafts.setdefault((module, code, frozenset(ends)), draft)
            draft.items.append(item)
            draft.anchors.append(anchor)
        return list(drafts.values())

    def unused(self) -> list[Draft]:
        """The box of parameters whose gradient is zero, those never read among them."""
        info = self._graph.module_info
        used = {start for start, end in self._ways if self._counts(end)}
        for i, flow in self._legs.weights.items():
            if Anchor('operator', i) in self._live:
                used |= {anchor for anchor, leg in flow.items() if leg.passes}
        items = [item for anchor, (_, item) in self._leaves.items() if anchor not in used]
        read = {spec.path for spec in info.by_role('param')}
        items += [Item(path_key(path)) for path in info.parameter_paths if path not in read]
        code = TABLE[DiagnosticKind.PARAMETER_UNUSED].code
        draft = Draft('unused', 'not used', (len(info.program.equations), 1), items, code=code)
        return [draft] if items else []

    def _find_live(self) -> set[Anchor]:
        """The operators with a trace, or with a derivative of the output or a hidden state."""
        self._live = set(self.drives)
        while True:
            found = {a for a, end in self._ways if a in self._relations and self._counts(end)}
            if found <= self._live:
                return self._live
            self._live |= found

    def _counts(self, end: Anchor) -> bool:
        return end.kind in ('group', 'output') or end in self._live

    def _why_untraced(self, paths: Sequence[Path], place: str | None) -> str | None:
        """The code of the record that says why an operation has no trace."""
        if not paths:
            return TABLE[DiagnosticKind.RELATION_EXCLUDED_NO_PARAMSTATE].code
        records = [r for path in paths for r in self._graph.explain(weight_path=path)]
        records = [r for r in records if r.kind in _OF_OPERATORS]
        here = [r for r in records if place_of(r.source) == place]
        return next((r.code for r in (*here, *records)), None)


def _module(paths: Sequence[Path], relation: HiddenParamOpRelation) -> Path:
    """The module that holds the weight and the states it drives; else the weight's own."""
    states = [path for group in relation.hidden_groups for path in group.hidden_paths]
    common: list[Any] = []
    for parts in zip(*(path[:-1] for path in states), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    inside = all(path[: len(common)] == tuple(common) for path in paths)
    return tuple(common) if inside else _parent(paths)


def _parent(paths: Sequence[Path]) -> Path:
    return paths[0][:-1] if paths else ()

"""The compiled graph: what is connected to what, and nothing else."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from etrace_compiler.contract import WeightExactness
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind
from etrace_compiler.errors import explain_error
from etrace_compiler.portable import fingerprint
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = ['ETraceGraph', 'HiddenPerturbation']

Path = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HiddenPerturbation:
    """The step with a perturbation added to every new hidden state, seen by its readers.

    Attributes:
        perturb_vars: Program variables of the perturbed new states.
        perturb_hidden_paths: Paths of the perturbed states.
        perturb_hidden_states: What is known of them.
    """

    perturb_vars: tuple[Any, ...]
    perturb_hidden_paths: tuple[Path, ...]
    perturb_hidden_states: tuple[StateSpec, ...]
    evaluate: Callable[..., Any] = field(repr=False)

    def init_perturb_data(self) -> list[Any]:
        """Return one array of zeros per perturbed state."""
        return [jnp.zeros(s.leaves[0].shape, s.leaves[0].dtype) for s in self.perturb_hidden_states]

    @property
    def perturb_jaxpr(self) -> Any:
        """The perturbed step as a jaxpr of (arguments, states, perturbations)."""
        return self.evaluate.jaxpr()  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class ETraceGraph:
    """What is connected to what in one step of a model.

    Two graphs are equal if they say the same: the same mathematics, decisions and source lines.
    A graph can be pickled; the live states of its model, and what the step prints, stay behind.

    Attributes:
        module_info: The traced step.
        hidden_groups: Hidden states that act on each other position by position.
        hid_path_to_group: Group of each hidden state.
        hidden_param_op_relations: Marked operations that drive groups.
        hidden_perturb: The perturbed step, or `None` where it was left out.
        diagnostics: Every decision of the compiler.
        exactness: What the online gradient of each parameter is worth, by parameter key.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> from etrace_compiler import compile_etrace_graph
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> compile_etrace_graph(cell, jnp.ones(3)).hidden_groups
        (HiddenGroup(0: h; varshape=(4,), S=1),)
    """

    module_info: ModuleInfo
    hidden_groups: tuple[HiddenGroup, ...]
    hid_path_to_group: Mapping[Path, HiddenGroup]
    hidden_param_op_relations: tuple[HiddenParamOpRelation, ...]
    hidden_perturb: HiddenPerturbation | None
    diagnostics: tuple[CompilationRecord, ...] = ()
    exactness: Mapping[str, WeightExactness] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, f.name) for f in fields(self))

    @cached_property
    def fingerprint(self) -> str:
        """The same text for the same step, states, groups and relations, in every process.

        Values of parameters, source lines and messages have no part in it; the version of jax may.
        """
        info = self.module_info
        trees = str(info.in_tree), str(info.out_tree)
        step = info.program, info.states, info.parameter_paths, trees
        return fingerprint(step, self.hidden_groups, self.hidden_param_op_relations)

    @cached_property
    def memo(self) -> dict[str, Any]:
        """What was derived from the graph and may be wanted again."""
        return {}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, ETraceGraph):
            return NotImplemented
        return (self.fingerprint, self.diagnostics, self.exactness) == (
            other.fingerprint,
            other.diagnostics,
            other.exactness,
        )

    def __hash__(self) -> int:
        keys = tuple(r.key for r in self.hidden_param_op_relations)
        return hash((keys, tuple(self.hid_path_to_group)))

    def __reduce__(self) -> tuple:
        return ETraceGraph, tuple(self)

    def dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def relation(self, key: str) -> HiddenParamOpRelation:
        """Return a relation by its key."""
        return next(r for r in self.hidden_param_op_relations if r.key == key)

    def part(self, keys: Collection[str]) -> 'ETraceGraph':
        """Return the graph with some of its relations alone.

        Args:
            keys: Keys of the relations to keep.

        Returns:
            The same object for the same relations, this one for all of them; groups and the
            traced step are whole.
        """
        kept = tuple(r for r in self.hidden_param_op_relations if r.key in keys)
        if len(kept) == len(self.hidden_param_op_relations):
            return self
        name = f'part {[r.key for r in kept]}'
        if name not in self.memo:
            self.memo[name] = replace(self, hidden_param_op_relations=kept)
        return self.memo[name]

    def explain(
        self,
        *,
        weight_path: Path | str | None = None,
        hidden_path: Path | str | None = None,
        kind: DiagnosticKind | str | None = None,
    ) -> tuple[CompilationRecord, ...]:
        """Return the records about one weight, one hidden state, or of one kind.

        Args:
            weight_path: Path of a parameter, as a tuple or a dotted string. After its own records
                come those of what is dropped in the groups that it drives, and beside them.
            hidden_path: Path of a hidden state, likewise.
            kind: Kind of decision.

        Returns:
            The matching records in order; all of them without a filter.
        """
        found = self.diagnostics
        if weight_path is not None:
            key = path_key(weight_path)
            own = (r for r in found if r.weight_path and path_key(r.weight_path) == key)
            found = (*own, *self._along_the_way(key))
        if hidden_path is not None:
            key = path_key(hidden_path)
            found = tuple(r for r in found if key in map(path_key, r.hidden_paths))
        if kind is not None:
            found = tuple(r for r in found if r.kind == DiagnosticKind(kind))
        return found

    def _along_the_way(self, key: str) -> Iterator[CompilationRecord]:
        """Records of groups and states, not of weights, that concern a weight."""
        driven = {
            path
            for r in self.hidden_param_op_relations
            if key in map(path_key, r.trainable_paths)
            for g in r.hidden_groups
            for path in g.hidden_paths
        }
        for r in self.diagnostics:
            cut = r.kind is DiagnosticKind.RECURRENCE_CUT and not driven.isdisjoint(r.hidden_paths)
            if cut or key in dict(r.context).get('weights', ()):
                yield r

    def call_hidden_perturb(
        self,
        args: Sequence[Any],
        perturb_data: Sequence[Any],
        old_state_vals: Sequence[Any] | None = None,
    ) -> tuple[Any, list[Any]]:
        """Run one step with perturbations added to the new hidden states.

        Args:
            args: Arguments of the step.
            perturb_data: One array per hidden state, in the order of
                `hidden_perturb.perturb_hidden_paths`, in the unit of the state.
            old_state_vals: Values of all states (`module_info.states`) to start from; the
                current values of the model's states by default.

        Returns:
            The output, and the new values of all states in the order of `module_info.states`.

        Raises:
            ValueError: If the graph was compiled without perturbations, or their number is
                not that of the hidden states.
        """
        if self.hidden_perturb is None:
            raise ValueError(
                explain_error(
                    'graph',
                    'has no perturbed step',
                    got='include_hidden_perturb=False',
                    expected='a graph compiled with perturbations',
                    fix='Compile with include_hidden_perturb=True.',
                    code='ETC110',
                )
            )
        paths = self.hidden_perturb.perturb_hidden_paths
        if len(perturb_data) != len(paths):
            raise ValueError(
                explain_error(
                    'perturb_data',
                    'does not have one perturbation per hidden state',
                    got=f'{len(perturb_data)}',
                    expected=f'{len(paths)}, for {", ".join(map(path_key, paths))}',
                    fix='Start from graph.hidden_perturb.init_perturb_data().',
                    code='ETC113',
                )
            )
        info = self.module_info
        if old_state_vals is None:
            live = info.retrieved_model_states
            old_state_vals = [live[spec.path].value for spec in info.states]
        states = dict(zip((s.key for s in info.states), old_state_vals, strict=True))
        out, new = self.hidden_perturb.evaluate(tuple(args), states, list(perturb_data))
        return out, [new[spec.key] for spec in info.states]

"""The nouns of the compiled graph: what is connected to what, and nothing else."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler._jax import SourceLine
from etrace_compiler.contract import WeightExactness
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind
from etrace_compiler.errors import explain_error
from etrace_compiler.ops import Operator
from etrace_compiler.portable import fingerprint
from etrace_compiler.program import Var
from etrace_compiler.staging import ModuleInfo, StateSpec, path_key

__all__ = [
    'CutEdge',
    'ETraceGraph',
    'HiddenGroup',
    'HiddenParamOpRelation',
    'HiddenPerturbation',
]

Path = tuple[str, ...]


@dataclass(frozen=True)
class CutEdge:
    """One operand whose derivative a group's trace does not follow.

    Attributes:
        equation: Index of the equation in the program.
        operand: Which of its operands.
        primitive: Name of the operation.
        source: The user's line.
    """

    equation: int
    operand: int
    primitive: str
    source: SourceLine | None

    @property
    def edge(self) -> tuple[int, int]:
        return (self.equation, self.operand)


@dataclass(frozen=True, eq=False)
class HiddenGroup:
    """Hidden states that act on each other position by position.

    Attributes:
        index: Position of the group among the graph's groups.
        hidden_paths: Paths of its states.
        hidden_states: What is known of each state (shape, dtype, states per position).
        hidden_invars: Program variables that hold the old states.
        hidden_outvars: Program variables that hold the new states.
        hidden_cuts: Operands that mix positions on the way from old to new states.
        drive_cuts: Operands that mix positions on the way from an operator to new states.
        feeds: Indices of the other groups that the old states act on within the step.
    """

    index: int
    hidden_paths: tuple[Path, ...]
    hidden_states: tuple[StateSpec, ...]
    hidden_invars: tuple[Var, ...]
    hidden_outvars: tuple[Any, ...]
    hidden_cuts: tuple[CutEdge, ...] = ()
    drive_cuts: tuple[CutEdge, ...] = ()
    feeds: tuple[int, ...] = ()

    @property
    def varshape(self) -> tuple[int, ...]:
        """Shape of the positions, batch included."""
        return self.hidden_states[0].varshape

    @property
    def positions(self) -> int:
        """Number of positions."""
        return math.prod(self.varshape)

    @property
    def num_state(self) -> int:
        """States per position, `S`."""
        return sum(spec.num_state for spec in self.hidden_states)

    @property
    def dtype(self) -> Any:
        """Common dtype of the states."""
        return jnp.result_type(*(spec.leaves[0].dtype for spec in self.hidden_states))

    def concat_hidden(self, values: Sequence[Any]) -> Any:
        """Stack one array per state into `(*varshape, S)`."""
        parts = [
            jnp.expand_dims(v, -1) if spec.axis is None else jnp.moveaxis(v, spec.axis, -1)
            for v, spec in zip(values, self.hidden_states, strict=True)
        ]
        return jnp.concatenate([p.astype(self.dtype) for p in parts], axis=-1)

    def split_hidden(self, stacked: Any) -> list[Any]:
        """Take `(*varshape, S)` apart into one array per state."""
        out, start = [], 0
        for spec in self.hidden_states:
            part = stacked[..., start : start + spec.num_state]
            part = part[..., 0] if spec.axis is None else jnp.moveaxis(part, -1, spec.axis)
            out.append(part.astype(spec.leaves[0].dtype))
            start += spec.num_state
        return out

    def __repr__(self) -> str:
        names = ', '.join(path_key(p) for p in self.hidden_paths)
        return f'HiddenGroup({self.index}: {names}; varshape={self.varshape}, S={self.num_state})'


@dataclass(frozen=True, eq=False)
class HiddenParamOpRelation:
    """One marked operation that drives hidden groups.

    Attributes:
        key: Unique name, `'rnn.Wz.weight.weight'`.
        operator: Facts about the operation.
        params: Static parameters of the operation.
        x_var: Program operand that holds the input, `None` for an operator without one.
        y_var: Program variable that holds the result.
        weight_var: Program variable that holds the effective weight.
        hidden_groups: The groups that it drives position by position.
        positions: Per driven group, the position that each element of the block
            `(G, H, O)` of the result reaches, `-1` for none.
        trainable_paths: Paths of the parameters in its weight chain.
        chain: Equations of the weight chain, by index.
        exact: Whether the diagonal trace of this operation loses nothing.
        source: The user's line.
        loops: Lengths of the loops that the operation stands in, where they were not written
            out. All substeps share positions; in `Linearisation.x` and `f` they lie side by
            side on the axis `G`.
    """

    key: str
    operator: Operator
    params: Mapping[str, Any]
    x_var: Any
    y_var: Var
    weight_var: Any
    hidden_groups: tuple[HiddenGroup, ...]
    positions: tuple[np.ndarray, ...]
    trainable_paths: tuple[Path, ...]
    chain: tuple[int, ...]
    exact: bool
    source: SourceLine | None
    loops: tuple[int, ...] = ()

    @property
    def substeps(self) -> int:
        """How often the operation runs within one step."""
        return math.prod(self.loops)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the results of all substeps: one leading axis per loop."""
        return (*self.loops, *self.y_var.shape)

    @property
    def primitive(self) -> Any:
        """The JAX primitive of the operation."""
        return self.operator.primitive

    @property
    def path(self) -> Path:
        """Path of the parameter, the first where there are several."""
        return self.trainable_paths[0]

    @property
    def folded_shape(self) -> tuple[int, int, int, int]:
        """Sizes `(G, H, I, O)` of one substep of the operation as a block matmul."""
        weight = jax.ShapeDtypeStruct(self.weight_var.shape, self.weight_var.dtype)
        heads, fan_in, fan_out = jax.eval_shape(
            lambda w: self.operator.w_block(w, **self.params), weight
        ).shape
        shared = math.prod(self.y_var.shape) // (heads * fan_out)
        return shared, heads, fan_in, fan_out

    @property
    def block_shape(self) -> tuple[int, int, int, int]:
        """Sizes `(G, H, I, O)` of the operation as a block matmul, all substeps together."""
        shared, heads, fan_in, fan_out = self.folded_shape
        return self.substeps * shared, heads, fan_in, fan_out

    @cached_property
    def columns(self) -> tuple[np.ndarray, ...]:
        """Per driven group, the columns `o` of the block whose results reach it, `O'` of `O`.

        Traces, drives and signals have these alone: of two gates in one product, one may go
        around the group.
        """
        return tuple(np.flatnonzero((p >= 0).any(axis=(0, 1))) for p in self.positions)

    def take(self, driven: int, block: Any) -> Any:
        """Take the columns that reach a driven group: of `(G, H, O, ...)` `(G, H, O', ...)`."""
        columns = self.columns[driven]
        if len(columns) == block.shape[2]:
            return block
        start, stop = int(columns[0]), int(columns[-1]) + 1
        return block[:, :, start:stop] if stop - start == len(columns) else block[:, :, columns]

    def place(self, driven: int, block: Any) -> Any:
        """Put columns back in their place, with zeros beside: of `(..., O')` `(..., O)`."""
        columns, width = self.columns[driven], self.positions[driven].shape[2]
        if len(columns) == width:
            return block
        start, stop = int(columns[0]), int(columns[-1]) + 1
        if stop - start == len(columns):
            return jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [(start, width - stop)])
        return jnp.zeros((*block.shape[:-1], width), block.dtype).at[..., columns].set(block)

    def trace_shape(self, driven: int) -> tuple[int, int, int, int]:
        """Sizes `(G, H, I, O')` of one state's part of a full trace."""
        shared, heads, fan_in, _ = self.folded_shape
        return shared, heads, fan_in, len(self.columns[driven])

    @property
    def dtype(self) -> Any:
        """Dtype of the result."""
        return self.y_var.dtype

    def x_block(self, x: Any) -> Any:
        """Bring the input, with an axis per loop in front, into the form `(G, H, I)`."""
        block = self._by_substep(self.operator.x_block, x)
        return jnp.asarray(block, dtype=self.dtype)

    def w_block(self, weight: Any) -> Any:
        """Bring the effective weight into the form `(H, I, O)`."""
        return self.operator.w_block(weight, **self.params)

    def y_block(self, y: Any) -> Any:
        """Bring the result, with an axis per loop in front, into the form `(G, H, O)`."""
        return self._by_substep(self.operator.y_block, y)

    def _by_substep(self, to_block: Callable[..., Any], value: Any) -> Any:
        def block(value: Any) -> Any:
            return to_block(value, self.weight_var.shape, **self.params)

        if not self.loops:
            return block(value)
        steps = value.reshape((self.substeps, *value.shape[len(self.loops) :]))
        blocks = jax.vmap(block)(steps)
        return blocks.reshape((-1, *blocks.shape[2:]))

    def __repr__(self) -> str:
        groups = [g.index for g in self.hidden_groups]
        return f'HiddenParamOpRelation({self.key}: {self.operator.name} -> groups {groups})'


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

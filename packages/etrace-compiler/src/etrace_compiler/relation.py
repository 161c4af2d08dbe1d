"""The nouns of the analysis: hidden groups, and the operations that drive them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler._jax import SourceLine
from etrace_compiler.ops import Operator, SparseInput
from etrace_compiler.program import Var
from etrace_compiler.staging import StateSpec, path_key

__all__ = ['CutEdge', 'HiddenGroup', 'HiddenParamOpRelation']

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
        fan_in = jax.eval_shape(self.w_block, weight).shape[1]
        shared, heads, fan_out = self.positions[0].shape
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
        """Bring the input, with an axis per loop in front, into the form `(G, H, I)`.

        Returns:
            An array or a `SparseInput`.
        """
        block = self._by_substep(self.operator.x_block, x)
        if isinstance(block, SparseInput):
            return block.astype(self.dtype)
        return jnp.asarray(block, dtype=self.input_dtype)

    @cached_property
    def shares_positions(self) -> bool:
        """Whether blocks that do not mix reach the same position, as non-zeros of a column do."""
        for positions in self.positions:
            heads = np.sort(positions[0], axis=0)
            if ((heads[1:] == heads[:-1]) & (heads[1:] >= 0)).any():
                return True
        return False

    @property
    def input_dtype(self) -> Any:
        """Dtype of the input in block form: a real input of a complex product stays real."""
        given = self.x_var is not None
        if given and jnp.issubdtype(self.x_var.dtype, jnp.complexfloating):
            return self.dtype
        return jnp.finfo(self.dtype).dtype

    @cached_property
    def active_inputs(self) -> int | None:
        """For how many of its `I` inputs a trace has room; `None` for all."""
        if self.x_var is None or self.loops:
            return None
        x = jax.ShapeDtypeStruct(self.x_var.shape, self.x_var.dtype)
        block = jax.eval_shape(self.x_block, x)
        return block.active if isinstance(block, SparseInput) else None

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
        return jax.tree.map(lambda b: b.reshape((-1, *b.shape[2:])), blocks)

    def __repr__(self) -> str:
        groups = [g.index for g in self.hidden_groups]
        return f'HiddenParamOpRelation({self.key}: {self.operator.name} -> groups {groups})'

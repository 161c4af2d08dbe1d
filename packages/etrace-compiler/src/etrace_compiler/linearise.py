r"""One step's linear facts: the second of the two types that a learning rule reads.

$$D = \partial h_t/\partial h_{t-1}, \qquad f_r = \partial h_t/\partial y_r, \qquad x_r,$$

position by position. They come from `S` reverse passes through each group's transition, with
an all-ones cotangent on one state each: since every operand that mixes positions is cut, the
sum over positions that such a pass computes has one term.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler.evaluate import run_step
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.interpret import Interpreter
from etrace_compiler.ops import SparseInput
from etrace_compiler.primitives import passes_derivative
from etrace_compiler.program import Program, Var
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation

__all__ = ['Linearisation', 'Lineariser', 'gather_positions']


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['inputs', 'f', 'D', 'hidden', 'args', 'states'],
    meta_fields=['graph'],
)
@dataclass(frozen=True, eq=False)
class Linearisation:
    """Linear facts of one step; a pytree.

    Attributes:
        graph: What the arrays belong to.
        inputs: Input of each relation in block form `(G, H, I)`, by relation key: an array, or a
            `SparseInput` of a look-up.
        f: Per relation key, one array `(G, H, O', S)` per group that it drives, of the
            `relation.columns` that reach it.
        D: Per group, `(*varshape, S, S)`; entry `[..., s, r]` is the derivative of new state
            `s` with respect to old state `r`.
        hidden: Old hidden states per group, `(*varshape, S)`.
        args: Arguments of the step, for `jvp_h`, `vjp_h` and `vjp_step`.
        states: Values of all states before the step, likewise.
    """

    graph: ETraceGraph
    inputs: Mapping[str, Any]
    f: Mapping[str, tuple[Any, ...]]
    D: tuple[Any, ...]
    hidden: tuple[Any, ...]
    args: tuple[Any, ...]
    states: Mapping[str, Any]

    @property
    def x(self) -> dict[str, Any]:
        """Input of each relation as an array `(G, H, I)`, by relation key."""
        return {
            key: x.dense() if isinstance(x, SparseInput) else x for key, x in self.inputs.items()
        }

    @property
    def relations(self) -> tuple[HiddenParamOpRelation, ...]:
        """The relations of the graph."""
        return self.graph.hidden_param_op_relations

    def part(self, keys: Collection[str]) -> 'Linearisation':
        """Return the facts of some relations alone; see `ETraceGraph.part`."""
        graph = self.graph.part(keys)
        kept = [r.key for r in graph.hidden_param_op_relations]
        inputs, f = ({key: facts[key] for key in kept} for facts in (self.inputs, self.f))
        return replace(self, graph=graph, inputs=inputs, f=f)

    def D_at(self, relation: HiddenParamOpRelation, driven: int, *, folded: bool = False) -> Any:
        """Return `D` where a relation's results go: `(G, H, O', S, S)`.

        Args:
            relation: A relation.
            driven: Which of the groups that it drives.
            folded: Give one substep of an operation inside a loop: `G` of `folded_shape`.
        """
        values = self.D[relation.hidden_groups[driven].index]
        return gather_positions(values, relation, driven, folded=folded)

    def jvp_h(self, tangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Multiply the complete one-step Jacobian of the hidden states by a vector.

        Args:
            tangents: Per group, `(*varshape, S)`.

        Returns:
            Per group, `(*varshape, S)`; groups act on each other.
        """
        # the transpose of `vjp_h`: a custom_vjp in the model has no forward-mode derivative
        _, pull = jax.vjp(self._step, self.hidden)
        zeros = jax.tree.map(jnp.zeros_like, self.hidden)
        return jax.vjp(lambda c: pull(c)[0], zeros)[1](tangents)[0]

    def vjp_h(self, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        """Multiply a vector by the complete one-step Jacobian of the hidden states.

        Args:
            cotangents: Per group, `(*varshape, S)`.

        Returns:
            Per group, `(*varshape, S)`.
        """
        return jax.vjp(self._step, self.hidden)[1](cotangents)[0]

    def vjp_step(
        self, cotangents: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Pull a vector on the new hidden states back, along every way within the step.

        Nothing is cut: ways through recurrent products, other groups and operations that are not
        marked count as well. What the caller does not use is not computed under `jax.jit`.

        Args:
            cotangents: Per group, `(*varshape, S)`.

        Returns:
            Cotangents of the old hidden states, per group `(*varshape, S)`; of the parameters,
            by state key, like their values; of the results of marked operations, by relation
            key `(G, H, O)`.
        """
        params = {s.key: self.states[s.key] for s in self.graph.module_info.by_role('param')}
        added = {r.key: jnp.zeros(r.result_shape, r.dtype) for r in self.relations}
        pull = jax.vjp(self._step, self.hidden, params, added)[1]
        hidden, params, results = pull(cotangents)
        return hidden, params, {r.key: r.y_block(results[r.key]) for r in self.relations}

    def _step(
        self,
        hidden: tuple[Any, ...],
        params: Mapping[str, Any] | None = None,
        added: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """The map from old to new hidden states; everything else is fixed.

        Args:
            hidden: Per group, `(*varshape, S)`.
            params: Parameters in place of those of the step, by state key.
            added: By relation key, what is added to the results of its operation.
        """
        values = {**self.states, **(params or {})}
        for group, stacked in zip(self.graph.hidden_groups, hidden, strict=True):
            parts = group.split_hidden(stacked)
            for spec, part in zip(group.hidden_states, parts, strict=True):
                values[spec.key] = spec.treedef.unflatten([part])
        add = {r.y_var: added[r.key] for r in self.relations} if added else None
        _, _, read = run_step(self.graph.module_info, self.args, values, effects=False, add=add)
        return tuple(
            group.concat_hidden([read(v) for v in group.hidden_outvars])
            for group in self.graph.hidden_groups
        )


def gather_positions(
    values: Any, relation: HiddenParamOpRelation, driven: int, *, folded: bool = False
) -> Any:
    """Look per-position values up where an operation's results go.

    Args:
        values: `(*varshape, ...)` of the group that is driven.
        relation: The relation.
        driven: Which of the groups that it drives.
        folded: Give one substep of an operation inside a loop; by default all of them, side
            by side on the first axis, as in `Linearisation.x` and `f`.

    Returns:
        `(G, H, O', ...)` for the columns that reach the group, zero where there is no position.
    """
    group = relation.hidden_groups[driven]
    positions = relation.take(driven, relation.positions[driven])
    flat = jnp.reshape(values, (group.positions, *values.shape[len(group.varshape) :]))
    rest = flat.shape[1:]
    if np.array_equal(positions.reshape(-1), np.arange(group.positions)):
        found = flat.reshape((*positions.shape, *rest))
    else:
        found = flat[np.maximum(positions, 0)]
        if not (positions >= 0).all():
            present = (positions >= 0).reshape((*positions.shape, *(1,) * len(rest)))
            found = jnp.where(present, found, jnp.zeros_like(found))
    if folded or relation.substeps == 1:
        return found
    return jnp.tile(found, (relation.substeps, *(1,) * (found.ndim - 1)))


class Lineariser:
    """Compute the linearisation of steps of one graph.

    Args:
        graph: The compiled graph.
    """

    def __init__(self, graph: ETraceGraph):
        self._graph = graph
        self._transitions = [_Transition(graph, group) for group in graph.hidden_groups]
        inside = graph.module_info.program.loops_of
        self._collect = {
            r.x_var
            for r in graph.hidden_param_op_relations
            if r.x_var is not None and inside(r.x_var)
        }

    def __call__(
        self, args: Sequence[Any], states: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any], Linearisation]:
        """Run one step and linearise it; nothing here is differentiated.

        Args:
            args: Arguments of the step.
            states: Values of all states by key.

        Returns:
            The output, the new states by key, and the linearisation.
        """
        graph = self._graph
        args, states = jax.lax.stop_gradient((tuple(args), dict(states)))
        out, new, read = run_step(graph.module_info, args, states, self._collect)
        diagonal, drives = [], {r.key: [] for r in graph.hidden_param_op_relations}
        for transition in self._transitions:
            rows, columns = transition(read)
            diagonal.append(rows)
            for key, value in columns.items():
                drives[key].append(value)
        inputs = {
            r.key: r.x_block(None if r.x_var is None else read(r.x_var))
            for r in graph.hidden_param_op_relations
        }
        hidden = tuple(
            g.concat_hidden([read(v) for v in g.hidden_invars]) for g in graph.hidden_groups
        )
        f = {key: tuple(values) for key, values in drives.items()}
        return out, new, Linearisation(graph, inputs, f, tuple(diagonal), hidden, args, states)


class _Transition:
    """The transition of one group as a function of its old states and of operator results.

    A variable is read free, or with the derivative with respect to the old states stopped, or
    with that with respect to operator results stopped; with both stopped it is a constant.
    """

    def __init__(self, graph: ETraceGraph, group: HiddenGroup):
        self._group = group
        self._program = graph.module_info.program
        self._relations = [r for r in graph.hidden_param_op_relations if group in r.hidden_groups]
        self._result = {r.y_var: i for i, r in enumerate(self._relations)}
        self._old = {v: i for i, v in enumerate(group.hidden_invars)}
        self._hidden_cut = {cut.edge for cut in group.hidden_cuts}
        self._drive_cut = {cut.edge for cut in group.drive_cuts}
        region = sorted(self._program.upstream(group.hidden_outvars))
        self._from_hidden = _carriers(self._program, self._old, self._hidden_cut, region)
        self._from_drive = _carriers(self._program, self._result, self._drive_cut, region)
        self._wanted = [(v, (True, True)) for v in group.hidden_outvars]
        self._interpreter = Interpreter(self._program, self._wanted, self)

    def _version(self, v: Any, hidden: bool, drive: bool) -> tuple[bool, bool]:
        """Which derivatives a variable still carries."""
        return hidden and v in self._from_hidden, drive and v in self._from_drive

    def resolve(self, v: Var, version: tuple[bool, bool]) -> tuple[bool, bool] | None:
        """The version in which a variable is computed; `None` for what the step has computed."""
        found = self._version(v, *version)
        inside = self._program.loops_of(v)
        known = v not in self._program.made or v in self._old
        known = known or (v in self._result and not found[0] and not inside)
        known = known or not (any(found) or inside)
        return None if known else found

    def operand(self, i: int, k: int, version: tuple[bool, bool]) -> tuple[bool, bool]:
        """The version in which an equation reads an operand."""
        hidden, drive = version
        v = self._program.equations[i].inputs[k]
        return self._version(
            v, hidden and (i, k) not in self._hidden_cut, drive and (i, k) not in self._drive_cut
        )

    def __call__(self, read: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
        """Return `D`, and per relation key the drive `f` in block form.

        Args:
            read: The values of the step.
        """
        group = self._group
        old = [read(v) for v in group.hidden_invars]
        zeros = [jnp.zeros(r.result_shape, r.y_var.dtype) for r in self._relations]
        new, pull = jax.vjp(lambda h, d: self._run(read, h, d), old, zeros)
        rows, columns = [], [[] for _ in self._relations]
        driven = [r.hidden_groups.index(group) for r in self._relations]
        for s in range(group.num_state):
            ones = jnp.zeros((*group.varshape, group.num_state), group.dtype).at[..., s].set(1)
            to_hidden, to_drive = pull(self._cotangents(ones, new))
            if jnp.issubdtype(group.dtype, np.complexfloating):
                # a real result sees the real part of a cotangent alone: ask for the other as well
                _, imaginary = pull(self._cotangents(-1j * ones, new))
                to_drive = [
                    a if jnp.iscomplexobj(a) else a + 1j * b
                    for a, b in zip(to_drive, imaginary, strict=True)
                ]
            rows.append(group.concat_hidden(to_hidden))
            for column, r, i, value in zip(columns, self._relations, driven, to_drive, strict=True):
                column.append(r.take(i, r.y_block(value)))
        drives = {
            r.key: jnp.stack(column, axis=-1)
            for r, column in zip(self._relations, columns, strict=True)
        }
        return jnp.stack(rows, axis=-2), drives

    def _cotangents(self, stacked: Any, new: Sequence[Any]) -> list[Any]:
        parts = self._group.split_hidden(stacked)
        return [c.astype(n.dtype) for c, n in zip(parts, new, strict=True)]

    def _run(self, read: Callable, old: Sequence, deltas: Sequence) -> list[Any]:
        def given(v: Var, version: tuple[bool, bool]) -> Any:
            if v in self._old and version[0]:
                return old[self._old[v]]
            return (
                read(v) + deltas[self._result[v]] if v in self._result and version[1] else read(v)
            )

        add = {
            r.y_var: {(hidden, True): delta for hidden in (False, True)}  # where it is computed
            for r, delta in zip(self._relations, deltas, strict=True)
        }
        results = self._interpreter(given, add=add)
        return [jnp.asarray(results(v, version)) for v, version in self._wanted]


def _carriers(
    program: Program, sources: Mapping[Var, int], cut: set[tuple[int, int]], region: Sequence[int]
) -> set[Var]:
    """Variables that a derivative with respect to the sources reaches through uncut operands."""
    found = set(sources)

    def visit(i: int) -> bool:
        eqn = program.equations[i]
        if found.issuperset(eqn.outputs) or not passes_derivative(eqn):
            return False
        if not any(v in found and (i, k) not in cut for k, v in enumerate(eqn.inputs)):
            return False
        found.update(eqn.outputs)
        return True

    program.settle(visit, region)
    return found

r"""Evaluate one step: values of the model, with the derivatives that online learning needs.

The values are always those of the model. A perturbation $p^g$ of the new states of group `g`
is seen by every reader except the group's own transition, so that $\partial\ell/\partial p$ is
the learning signal and no way is counted twice. A perturbation $q^g$ of the old states is seen
by every reader except the group's own transition and the operands cut for `g`: through it
comes what acts on the loss beside the new states (a spike computed before the reset). A
perturbation of the result of a marked operation takes the place of the derivative with respect
to its weight: that is the product of the operation's input and the perturbation's cotangent.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from etrace_compiler.graph import ETraceGraph
from etrace_compiler.interpret import Interpreter, run
from etrace_compiler.program import Program, Var, apply_equation, read_atom
from etrace_compiler.relation import HiddenGroup, HiddenParamOpRelation
from etrace_compiler.staging import ModuleInfo

__all__ = ['StepEvaluator', 'effective_weights', 'run_step']

#: One array per state of a group, per group; `None` where a group is not perturbed.
Perturbation = Sequence[Sequence[Any] | None]


class _Version(NamedTuple):
    """How a variable is read.

    Attributes:
        home: Inside which group's transition, `-1` for none.
        cut: With which groups cut (bits).
        weight: As the weight of a marked operation.
    """

    home: int
    cut: int
    weight: bool = False


_OUTSIDE = _Version(-1, 0)


def run_step(
    info: ModuleInfo,
    args: Sequence[Any],
    states: Mapping[str, Any],
    collect: Collection[Var] = (),
    *,
    effects: bool = True,
    add: Mapping[Var, Any] | None = None,
) -> tuple[Any, dict[str, Any], Callable[[Any], Any]]:
    """Run one step as it stands, with all of its derivatives.

    Args:
        info: The traced step.
        args: Arguments of the step.
        states: Values of all states by key.
        collect: Variables inside loops whose values, stacked over substeps, are wanted.
        effects: Whether the step prints what it prints.
        add: By variable, what is added where it is computed.

    Returns:
        The output, the new states by key, and the value of every variable outside loops and of
        those collected.
    """
    read = run(info.program, info.flatten_inputs(args, states), collect, effects=effects, add=add)
    out, new = info.unflatten_outputs([read(v) for v in info.program.outputs])
    return out, new, read


def effective_weights(graph: ETraceGraph, params: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the weight chain of every relation.

    Args:
        graph: The compiled graph.
        params: Parameter values by key.

    Returns:
        The weight of each relation in its block form `(H, I, O)`, by relation key.
    """
    info = graph.module_info
    env: dict[Var, Any] = {}
    for spec in info.by_role('param'):
        env.update(zip(info.old_vars(spec), jax.tree.leaves(params[spec.key]), strict=True))
    needed = {i for r in graph.hidden_param_op_relations for i in r.chain}
    for i in sorted(needed):
        eqn = info.program.equations[i]
        values = apply_equation(eqn, [read_atom(v, env) for v in eqn.inputs])
        env.update(zip(eqn.outputs, values, strict=True))
    return {r.key: r.w_block(env[r.weight_var]) for r in graph.hidden_param_op_relations}


class StepEvaluator:
    """One step with perturbed states.

    The plan, which variable is needed in which version, is made once; a variable that no old
    or new hidden state reaches has one version, and most others have one as well.

    Args:
        info: The traced step.
        groups: The hidden groups.
        relations: The marked operations whose results may be perturbed.
    """

    def __init__(
        self,
        info: ModuleInfo,
        groups: Sequence[HiddenGroup],
        relations: Sequence[HiddenParamOpRelation] = (),
    ):
        self._info = info
        self._groups = tuple(groups)
        program = info.program
        made = program.made
        self._old = {v: (g.index, i) for g in groups for i, v in enumerate(g.hidden_invars)}
        self._new = {
            v: (g.index, i)
            for g in groups
            for i, v in reversed(list(enumerate(g.hidden_outvars)))
            if v in made
        }
        self._old_deps = _reaching(program, self._old)
        self._new_deps = _reaching(program, self._new)
        self._cuts: dict[tuple[int, int], int] = {}
        for g in groups:
            for cut in g.hidden_cuts:
                self._cuts[cut.edge] = self._cuts.get(cut.edge, 0) | 1 << g.index
        marked = {made[r.y_var]: r for r in relations}
        self._weights = {(i, r.operator.weight_index) for i, r in marked.items()}
        self._wanted = list(zip(program.outputs, self._output_homes(), strict=True))
        self._interpreter = Interpreter(program, self._wanted, self)
        self._results = [
            (marked[i], version) for i, version in self._interpreter.items if i in marked
        ]
        self.bypassed = self._find_bypassed()

    def _output_homes(self) -> list[_Version]:
        homes = [_OUTSIDE] * len(self._info.program.outputs)
        start = len(self._info.out_atoms)
        of_path = {p: g.index for g in self._groups for p in g.hidden_paths}
        for spec in self._info.by_role('hidden'):
            homes[start + spec.start] = _Version(of_path[spec.path], 0)
        return homes

    def _canonical(self, v: Var, version: _Version) -> _Version:
        old, new = self._old_deps.get(v, 0), self._new_deps.get(v, 0)
        home, cut, _ = version
        if home >= 0 and not (old | new) >> home & 1:
            home = -1
        if home >= 0:
            cut &= ~(1 << home)
        return _Version(home, cut & old)

    def _source(self, v: Var, version: _Version) -> tuple[_Version, int | None]:
        """The version a read goes to, and the group whose perturbation it sees."""
        group = self._new[v][0] if v in self._new else None
        if group is not None and group != version.home:
            # a way through another group back home is part of the transition of the home
            inside = 1 << version.home if version.home >= 0 else 0
            return self._canonical(v, _Version(group, version.cut | inside)), group
        return self._canonical(v, version), None

    def resolve(self, v: Var, version: _Version) -> _Version | None:
        """The version in which a variable is computed for a reader; `None` for an input."""
        return self._source(v, version)[0] if v in self._info.program.made else None

    def operand(self, i: int, k: int, version: _Version) -> _Version:
        """The version in which an equation reads an operand."""
        edge = (i, k)
        return _Version(version.home, version.cut | self._cuts.get(edge, 0), edge in self._weights)

    def _find_bypassed(self) -> frozenset[int]:
        """Groups whose old states are seen outside their own transition."""
        reads = list(self._wanted)
        for i, version in self._interpreter.items:
            inputs = self._info.program.equations[i].inputs
            reads += [(v, self.operand(i, k, version)) for k, v in enumerate(inputs)]
        old = [(self._old[v][0], version) for v, version in reads if v in self._old]
        return frozenset(group for group, version in old if self._reads_free(group, version))

    @staticmethod
    def _reads_free(group: int, version: _Version) -> bool:
        return version.home != group and not version.cut >> group & 1

    def __call__(
        self,
        args: Sequence[Any],
        states: Mapping[str, Any],
        new_perturb: Perturbation | None = None,
        old_perturb: Perturbation | None = None,
        result_perturb: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Evaluate the step; the states that enter are detached.

        Args:
            args: Arguments of the step.
            states: Values of all states by key.
            new_perturb: $p$, per group one array per state; `None` for none.
            old_perturb: $q$, likewise; used for the groups in `bypassed` alone.
            result_perturb: By relation key, added to the result of the operation, whose weight
                is then a constant; of shape `result_shape`. `None` for none.

        Returns:
            The output, and the new states by key, hidden ones with $p$ added.
        """
        info = self._info
        inputs = info.flatten_inputs(args, states)
        detached = {v for s in info.states if s.role != 'param' for v in info.old_vars(s)}
        values: dict[Any, Any] = {}
        for v, value in zip(info.program.inputs, inputs, strict=True):
            values[v] = jax.lax.stop_gradient(value) if v in detached else value

        def given(v: Var, version: _Version) -> Any:
            if v not in self._old or old_perturb is None:
                return values[v]
            group, i = self._old[v]
            q = old_perturb[group]
            return (
                values[v]
                if q is None or not self._reads_free(group, version)
                else (values[v] + q[i])
            )

        def adjust(v: Var, version: _Version, value: Any) -> Any:
            if version.weight and result_perturb is not None:
                value = jax.lax.stop_gradient(value)
            if new_perturb is None or v not in self._new:
                return value
            seen = self._source(v, version)[1]
            p = None if seen is None else new_perturb[seen]
            return value if p is None else value + p[self._new[v][1]]

        add: dict[Var, dict[_Version, Any]] = {}
        for r, version in self._results if result_perturb else ():
            assert result_perturb is not None
            add.setdefault(r.y_var, {})[version] = result_perturb[r.key]
        read = self._interpreter(given, adjust, add)
        outputs = [read(v, version) for v, version in self._wanted]
        if new_perturb is not None:
            start = len(info.out_atoms)
            for g in self._groups:
                for spec, p in zip(g.hidden_states, new_perturb[g.index] or (), strict=False):
                    outputs[start + spec.start] = outputs[start + spec.start] + p
        return info.unflatten_outputs(outputs)


def _reaching(program: Program, sources: Mapping[Var, tuple[int, int]]) -> dict[Var, int]:
    """Per variable, the groups of the source variables that it depends on, as bits."""
    bits: dict[Var, int] = {v: 1 << group for v, (group, _) in sources.items()}

    def visit(i: int) -> bool:
        eqn = program.equations[i]
        found = 0
        for v in eqn.inputs:
            found |= bits.get(v, 0) if isinstance(v, Var) else 0
        changed = False
        for v in eqn.outputs:
            if bits.get(v, 0) | found != bits.get(v, 0):
                bits[v] = bits.get(v, 0) | found
                changed = True
        return changed

    program.settle(visit)
    return bits

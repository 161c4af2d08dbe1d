"""From a live model to a traced step: the only place where the compiler reads live states."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from etrace_compiler import _jax
from etrace_compiler.canonical import ControlFlowPolicy, canonicalise
from etrace_compiler.diagnostics import CompilationRecord, DiagnosticKind, record
from etrace_compiler.errors import CompilationError, explain_error
from etrace_compiler.program import Equation, Program, Var

__all__ = ['ModuleInfo', 'StateSpec', 'extract_module_info', 'path_key']

Path = tuple[Any, ...]


def path_key(path: Sequence[Any] | str) -> str:
    """Write a path as the string that is used for keys: `('rnn', 'weight')` as `'rnn.weight'`."""
    return path if isinstance(path, str) else '.'.join(map(str, path))


@dataclass(frozen=True)
class StateSpec:
    """What the compiler knows about one state: no value, no live object.

    Attributes:
        path: Module path of the state.
        role: `'param'`, `'hidden'` or `'other'`.
        treedef: Structure of the value.
        leaves: Shape and dtype of each leaf.
        start: Index of the first leaf among the leaves of all states.
        written: Whether the step assigns the state.
        num_state: States per position: the last axis of a `HiddenGroupState`, the slots of a
            delay line, otherwise 1.
        axis: The axis of the value on which states of one position are stacked, if any.
    """

    path: Path
    role: str
    treedef: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    start: int
    written: bool
    num_state: int = 1
    axis: int | None = None

    @cached_property
    def key(self) -> str:
        return path_key(self.path)

    @property
    def stop(self) -> int:
        return self.start + len(self.leaves)

    @property
    def holds_keys(self) -> bool:
        """Whether the value is a random key."""
        return any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in self.leaves)

    @property
    def varshape(self) -> tuple[int, ...]:
        """Shape of the positions of a hidden state."""
        shape = self.leaves[0].shape
        return shape if self.axis is None else (*shape[: self.axis], *shape[self.axis + 1 :])

    @property
    def stacked(self) -> bool:
        """Whether the value holds several states per position."""
        return self.axis is not None


@dataclass(frozen=True, eq=False)
class ModuleInfo:
    """One traced step of a model.

    Attributes:
        closed_jaxpr: The step as JAX traced it; `None` for one that was stored.
        program: The same as a flat program in canonical form.
        states: Every state that the step touches, in the order of the program's inputs.
        in_tree: Structure of the arguments.
        in_avals: Shape and dtype of each leaf of the arguments.
        out_tree: Structure of the model's output.
        records: What was decided while staging.
        parameter_paths: Paths of all parameters of the model, used by the step or not.
        retrieved_model_states: The live states by path; neither compared nor stored.
    """

    closed_jaxpr: Any
    program: Program
    states: tuple[StateSpec, ...]
    in_tree: Any
    in_avals: tuple[jax.ShapeDtypeStruct, ...]
    out_tree: Any
    records: tuple[CompilationRecord, ...] = ()
    parameter_paths: tuple[Path, ...] = ()
    retrieved_model_states: Mapping[Path, brainstate.State] = field(
        default_factory=dict, repr=False
    )

    def __reduce__(self) -> tuple:
        # jax does not store its jaxprs, and live states belong to one process
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {'closed_jaxpr': None, 'retrieved_model_states': {}}
        return ModuleInfo, tuple(values.values())

    def by_role(self, role: str) -> tuple[StateSpec, ...]:
        """Return the states of one role, in order."""
        return tuple(spec for spec in self.states if spec.role == role)

    def spec(self, key: str) -> StateSpec:
        """Return a state by its key."""
        return next(spec for spec in self.states if spec.key == key)

    def old_vars(self, spec: StateSpec) -> tuple[Var, ...]:
        """Program inputs that hold a state's value before the step."""
        start = len(self.in_avals)
        return self.program.inputs[start + spec.start : start + spec.stop]

    def new_atoms(self, spec: StateSpec) -> tuple:
        """Program outputs that hold a state's value after the step."""
        start = len(self.out_atoms)
        return self.program.outputs[start + spec.start : start + spec.stop]

    @cached_property
    def out_atoms(self) -> tuple:
        """Program outputs that are the model's output."""
        count = len(self.program.outputs) - sum(len(s.leaves) for s in self.states)
        return self.program.outputs[:count]

    def flatten_inputs(self, args: Sequence[Any], states: Mapping[str, Any]) -> list[Any]:
        """Lay arguments and state values out in the order of the program's inputs."""
        leaves = list(jax.tree.leaves(tuple(args)))
        for spec in self.states:
            leaves.extend(jax.tree.leaves(states[spec.key]))
        return leaves

    def unflatten_outputs(self, leaves: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
        """Split program results into the model's output and the new state values by key."""
        count = len(self.out_atoms)
        states = {
            spec.key: spec.treedef.unflatten(leaves[count + spec.start : count + spec.stop])
            for spec in self.states
        }
        return self.out_tree.unflatten(leaves[:count]), states


def extract_module_info(
    model: brainstate.nn.Module, *model_args: Any, control_flow: ControlFlowPolicy | None = None
) -> ModuleInfo:
    """Trace one step of a model.

    Args:
        model: A module whose states are initialised.
        *model_args: Example arguments of one step.
        control_flow: What to do with loops and branches inside the step.

    Returns:
        The traced step.

    Raises:
        TypeError: If `model` is not a `brainstate.nn.Module`.
        CompilationError: If states are not initialised, or the step writes a parameter.
    """
    check_module(model)
    step = brainstate.transform.StatefulFunction(model, return_only_write=False)
    try:
        made = step.get_arg_cache_key(*model_args, compile_if_miss=True)
    except AttributeError as error:
        raise _uninitialised(error) or error from error
    trace = step.get_state_trace_by_cache(made)
    everything = all_states(model)
    paths = {id(state): path for path, state in everything.items()}
    live = {}
    for i, state in enumerate(trace.states):
        path = paths.get(id(state)) or ('global', state.name or f'{type(state).__name__}{i}')
        if path in live:  # two states from outside the model may share a name
            path = (*path, str(i))
        live[tuple(path)] = state
    specs = _specs(live, trace.been_writen)

    closed_jaxpr = step.get_jaxpr_by_cache(made)
    out_shapes, _ = step.get_out_shapes_by_cache(made)
    arg_leaves, in_tree = jax.tree.flatten(tuple(model_args))
    in_avals = tuple(map(_struct, arg_leaves))
    count = len(jax.tree.leaves(out_shapes))
    program, records = canonicalise(
        closed_jaxpr,
        parameters=_positions(specs, 'param', len(in_avals)),
        hidden_inputs=_positions(specs, 'hidden', len(in_avals)),
        hidden_outputs=_positions(specs, 'hidden', count),
        policy=control_flow or ControlFlowPolicy(),
        library_paths=library_paths(),
    )
    records = (*records, *_undifferentiable(specs, live))
    if not live.keys() <= everything.keys():  # there are states outside of the model
        everything = brainstate.util.FlattedDict({**everything, **live})
    info = ModuleInfo(
        closed_jaxpr,
        program,
        specs,
        in_tree,
        in_avals,
        jax.tree.structure(out_shapes),
        records,
        tuple(p for p, s in everything.items() if isinstance(s, brainstate.ParamState)),
        everything,
    )
    _check_parameters_unwritten(info)
    return info


def all_states(model: brainstate.nn.Module) -> Mapping[Path, brainstate.State]:
    """Return the live states of a model by path."""
    found: Any = model.states()
    return found


def check_module(model: Any) -> None:
    """Check that a model is a `brainstate.nn.Module`.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(model, brainstate.nn.Module):
        raise TypeError(
            explain_error(
                'model',
                'is not a model',
                got=type(model).__name__,
                expected='an instance of brainstate.nn.Module, whose states can be found by path',
                fix='Write the step as the `update` method of a brainstate.nn.Module.',
                code='ETC101',
            )
        )


def library_paths() -> tuple[str, ...]:
    """Folders of our own packages, whose frames are not the user's code."""
    names = ('etrace_compiler', 'etrace_algorithms', 'etrace_nn')
    return tuple([sys.modules[n].__path__[0] for n in names if n in sys.modules])


def _struct(value: Any) -> jax.ShapeDtypeStruct:
    if isinstance(value, jax.Array):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    return jax.ShapeDtypeStruct(jnp.shape(value), jax.dtypes.result_type(value))


def _specs(live: Mapping[Path, Any], written: Sequence[bool]) -> tuple[StateSpec, ...]:
    specs, start = [], 0
    for (path, state), is_written in zip(live.items(), written, strict=True):
        leaves, treedef = jax.tree.flatten(state.value)
        avals = tuple(map(_struct, leaves))
        stacked = isinstance(state, brainstate.HiddenGroupState)
        count = avals[0].shape[-1] if stacked else 1
        specs.append(StateSpec(path, _role(state, avals), treedef, avals, start, is_written,
                               count, len(avals[0].shape) - 1 if stacked else None))  # fmt: skip
        start += len(leaves)
    return tuple(specs)


def _positions(specs: Sequence[StateSpec], role: str, offset: int) -> list[int]:
    return [offset + i for s in specs if s.role == role for i in range(s.start, s.stop)]


def _role(state: Any, avals: tuple[jax.ShapeDtypeStruct, ...]) -> str:
    if isinstance(state, brainstate.ParamState):
        return 'param'
    if isinstance(state, brainstate.HiddenState) and jnp.issubdtype(avals[0].dtype, np.inexact):
        return 'hidden'
    return 'other'


def _undifferentiable(specs: Sequence[StateSpec], live: Mapping) -> list[CompilationRecord]:
    return [
        record(
            DiagnosticKind.HIDDEN_NOT_DIFFERENTIABLE,
            f'hidden state {spec.key} holds {spec.leaves[0].dtype}: it is carried along '
            'and no trace follows it',
            hidden_paths=(spec.path,),
        )
        for spec in specs
        if spec.role == 'other' and isinstance(live[spec.path], brainstate.HiddenState)
    ]


def _uninitialised(error: AttributeError) -> CompilationError | None:
    """Recognise the access to a state that `init_state` would have made."""
    if not isinstance(error.obj, brainstate.nn.Module):
        return None
    frame = error.__traceback__
    where = None
    while frame is not None:
        code = frame.tb_frame.f_code
        if not code.co_filename.startswith(('<', *library_paths(), *_jax.LIBRARIES)):
            where = _jax.SourceLine(code.co_filename, frame.tb_lineno, code.co_name)
        frame = frame.tb_next
    return CompilationError(
        explain_error(
            f'{type(error.obj).__name__}.{error.name}',
            'does not exist while the model is traced',
            got='a module without this attribute',
            expected='every state to be initialised',
            fix='Call brainstate.nn.init_all_states(model[, batch_size]) first, '
            'or let etrace_algorithms.compile do it.',
            code='ETC102',
            where=where,
        )
    )


def _check_parameters_unwritten(info: ModuleInfo) -> None:
    written = [spec for spec in info.by_role('param') if spec.written]
    if not written:
        return
    spec = written[0]
    producer: Equation | None = None
    made = info.program.made
    for atom in info.new_atoms(spec):
        if atom in made:
            producer = info.program.equations[made[atom]]
    raise CompilationError(
        explain_error(
            spec.key,
            'is a parameter that the step writes',
            got=f'{len(written)} written parameter(s): {", ".join(s.key for s in written)}',
            expected='parameters that only an optimiser writes, between steps',
            fix='Hold it in a brainstate.HiddenState or ShortTermState instead.',
            code='ETC103',
            where=producer.source if producer else None,
        )
    )

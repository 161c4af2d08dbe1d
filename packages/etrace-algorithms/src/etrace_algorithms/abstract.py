"""Compiling a model for another batch size, with states that are shapes without values."""

import contextlib
from collections.abc import Iterator
from typing import Any

import brainstate
import jax

from etrace_compiler import CompilationError, ControlFlowPolicy, ETraceGraph, compile_etrace_graph

__all__ = ['compile_abstract']


def compile_abstract(
    model: brainstate.nn.Module,
    *inputs: Any,
    batch_size: int | None = None,
    control_flow: ControlFlowPolicy | None = None,
) -> ETraceGraph:
    """Compile a model without giving memory to its states.

    The model's own `init_state` is traced, and only the shapes of the states that it makes are
    kept. An `init_state` that needs real numbers cannot be traced and is run instead. In either
    case the model is afterwards what it was before.

    Args:
        model: A module that does one time step.
        *inputs: Example arguments of one step: arrays, or `jax.ShapeDtypeStruct`.
        batch_size: Batch size for the states. By default states stay as they are, and a model
            whose states were never initialised gets those without a batch axis.
        control_flow: What to do with loops and branches inside the step.

    Returns:
        The graph; its states have shapes and no values, so it is there to be looked at.

    Raises:
        CompilationError: If the model cannot be compiled.

    Example:
        >>> import etrace_nn, jax, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(3, 4)
        >>> x = jax.ShapeDtypeStruct((10**6, 3), jnp.float32)
        >>> compile_abstract(cell, x, batch_size=10**6).hidden_groups
        (HiddenGroup(0: h; varshape=(1000000, 4), S=1),)
        >>> hasattr(cell, 'h')
        False
    """
    if batch_size is None:
        try:
            return compile_etrace_graph(model, *inputs, control_flow=control_flow)
        except CompilationError as error:
            if 'ETC102' not in str(error):
                raise
    sizes = () if batch_size is None else (batch_size,)
    try:
        with _unchanged(model):
            _init_shapes(model, sizes)
            return compile_etrace_graph(model, *inputs, control_flow=control_flow)
    except (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError):
        # `init_state` computes with values, or keeps them elsewhere than in states
        with _unchanged(model), brainstate.random.seed_context(0):
            brainstate.nn.init_all_states(model, *sizes)
            return compile_etrace_graph(model, *inputs, control_flow=control_flow)


def _init_shapes(model: brainstate.nn.Module, sizes: tuple[int, ...]) -> None:
    """Initialise the states of a model to shapes and dtypes."""

    def values() -> dict:
        brainstate.nn.init_all_states(model, *sizes)
        return {path: state.value for path, state in _states(model).items()}

    before = {id(state) for state in _states(model).values()}
    shapes = brainstate.transform.eval_shape(values)
    for path, state in _states(model).items():
        if id(state) not in before or not isinstance(state, brainstate.ParamState):
            state.value = shapes[path]


def _states(model: brainstate.nn.Module) -> dict:
    found: Any = model.states()
    return dict(found.items())


@contextlib.contextmanager
def _unchanged(model: brainstate.nn.Module) -> Iterator[None]:
    """Put back what happens to a model's attributes and states inside."""
    nodes: Any = model.nodes()
    attributes = [(vars(node), _copy(vars(node))) for node in nodes.values()]
    values = [(state, state.value) for state in _states(model).values()]
    try:
        yield
    finally:
        for live, kept in attributes:
            _restore(live, kept)
        for state, value in values:
            if state.value is not value:
                state.value = value


def _copy(value: Any) -> Any:
    """Copy containers, and the containers in them; leave everything else as it is."""
    if type(value) is dict:
        return {k: (v, _copy(v)) for k, v in value.items()}
    if type(value) is list:
        return [(v, _copy(v)) for v in value]
    return None


def _restore(live: Any, kept: Any) -> None:
    """Give containers their members back, the same objects as before."""
    if type(live) is dict:
        for value, copy in kept.values():
            _restore(value, copy)
        live.clear()
        live.update({k: value for k, (value, _) in kept.items()})
    elif type(live) is list:
        for value, copy in kept:
            _restore(value, copy)
        live[:] = [value for value, _ in kept]

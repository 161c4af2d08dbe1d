"""Checks at the border: each says what was given, what was expected and what to do."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.batching import state_axes
from etrace_compiler import (
    CompilationError,
    CompilationWarning,
    DiagnosticLevel,
    ETraceGraph,
    ModuleInfo,
    path_key,
)
from etrace_compiler._jax import LIBRARIES
from etrace_compiler.errors import explain_error
from etrace_compiler.staging import library_paths

__all__ = [
    'check_arguments',
    'check_states',
    'check_trainable',
    'check_vjp_method',
    'warn_of_dead_parameters',
    'warn_user',
]


def check_vjp_method(vjp_method: str) -> str:
    """Check the name of a VJP method.

    Raises:
        ValueError: If it is unknown.
    """
    if vjp_method in ('single-step', 'multi-step'):
        return vjp_method
    raise ValueError(
        explain_error(
            'vjp_method',
            'is unknown',
            got=repr(vjp_method),
            expected="'single-step' or 'multi-step'",
            fix='Leave it out for single-step.',
            code='ETA103',
        )
    )


def check_trainable(graph: ETraceGraph) -> None:
    """Check that a graph has a parameter that can be trained.

    Raises:
        CompilationError: If it has none; the message lists the reasons.
    """
    info = graph.module_info
    dead = {r.weight_path for r in graph.diagnostics if r.level == DiagnosticLevel.ERROR}
    alive = [path for path in info.parameter_paths if path not in dead]
    if alive:
        return
    reasons = [str(r) for r in graph.diagnostics if r.level == DiagnosticLevel.ERROR]
    raise CompilationError(
        '\n'.join(
            [
                explain_error(
                    'model',
                    'has nothing to train',
                    got=f'{len(info.parameter_paths)} parameters',
                    expected='at least one ParamState that reaches an output or a hidden state',
                    fix='Hold trainable values in brainstate.ParamState and use them in the step.',
                    code='ETA104',
                ),
                *reasons,
            ]
        ),
        graph.diagnostics,
    )


def warn_of_dead_parameters(graph: ETraceGraph) -> None:
    """Warn, once for each of the user's lines, of parameters that can never learn."""
    records = [r for r in graph.diagnostics if r.level == DiagnosticLevel.ERROR and r.weight_path]
    if records:
        names = ', '.join(dict.fromkeys(path_key(r.weight_path or ()) for r in records))
        codes = ', '.join(dict.fromkeys(r.code for r in records))
        message = f'{names}: the gradient is zero [{codes}]; learner.show_graph() tells why.'
        warn_user(message)


def warn_user(message: str) -> None:
    """Warn at the line of the user's own code that is being run."""
    libraries = (*library_paths(), *LIBRARIES)
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(libraries):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, CompilationWarning, stacklevel=level)


def check_arguments(
    info: ModuleInfo, args: tuple[Any, ...], multi: tuple[bool, ...], batch: int | None
) -> None:
    """Check a step's arguments against those the graph was compiled for.

    Args:
        info: The traced step.
        args: Bare arguments.
        multi: Which of them have a leading axis of steps.
        batch: Size of the batch axis that vmap adds, `None` without one.

    Raises:
        ValueError: If structure, shape or dtype differ.
    """
    leaves, tree = jax.tree.flatten(args)
    if tree != info.in_tree:
        _refuse('arguments', f'{tree}', f'{info.in_tree}')
    flags = jax.tree.leaves(
        [jax.tree.map(lambda _, m=m: m, a) for a, m in zip(args, multi, strict=True)]
    )
    for i, (leaf, aval, is_multi) in enumerate(zip(leaves, info.in_avals, flags, strict=True)):
        shape = jnp.shape(leaf)[1:] if is_multi else jnp.shape(leaf)
        expected = aval.shape if batch is None else (batch, *aval.shape)
        dtype = jax.dtypes.result_type(leaf)
        if shape != expected or dtype != aval.dtype:
            per_step = ' per step' if is_multi else ''
            _refuse(
                f'argument {i}',
                f'{dtype}{list(shape)}{per_step}',
                f'{aval.dtype}{list(expected)}{per_step}',
            )


def check_states(info: ModuleInfo, states: Mapping[str, Any], batch: int | None) -> None:
    """Check the model's states against those the graph was compiled for.

    Args:
        info: The traced step.
        states: Values of all states by key.
        batch: Size of the batch axis that vmap adds, `None` without one.

    Raises:
        ValueError: If a shape differs, as after another initialisation.
    """
    axes = state_axes(info)
    for spec in info.states:
        extra = batch is not None and axes[spec.key] == 0
        for leaf, aval in zip(jax.tree.leaves(states[spec.key]), spec.leaves, strict=True):
            expected = (batch, *aval.shape) if extra else aval.shape
            if jnp.shape(leaf) != expected:
                _refuse(spec.key, f'shape {list(jnp.shape(leaf))}', f'shape {list(expected)}')


def _refuse(subject: str, got: str, expected: str) -> None:
    raise ValueError(
        explain_error(
            subject,
            'does not fit the compiled graph',
            got=got,
            expected=expected,
            fix='For another batch size or dtype initialise the states again '
            'and call compile_graph with it.',
            code='ETA105',
        )
    )

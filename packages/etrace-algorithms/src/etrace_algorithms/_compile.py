"""`compile`: from a model and the name of an algorithm to a learner that is ready to run."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms._make import make_learner as make_single
from etrace_algorithms.automatic import AutoLearner
from etrace_algorithms.hybrid import HybridLearner
from etrace_compiler import CompilationReport, DiagnosticLevel, get_single_step_data
from etrace_compiler.errors import explain_error

__all__ = ['compile', 'make_learner']


def compile(
    model: brainstate.nn.Module,
    algorithm: Any,
    *example_inputs: Any,
    batch_size: int | None = None,
    seed: int | None = None,
    verbose: int = 0,
    vmap: bool = False,
    **options: Any,
) -> Any:
    """Initialise a model's states, compile its graph, and return a learner that is ready.

    Args:
        model: A module that does one time step.
        algorithm: Name of a learner (`'d_rtrl'`, `'pp_prop'`, ...), a learner class, a learning
            rule, or a class of rules. A mapping from patterns of weights to these gives each
            weight its own ([`HybridLearner`][etrace_algorithms.HybridLearner]); `'auto'` chooses
            what `memory_budget` allows ([`AutoLearner`][etrace_algorithms.AutoLearner]).
        *example_inputs: Arguments of one step, with the batch axis if there is one.
        batch_size: Batch size passed to the model's `init_state`.
        seed: Seed of the random numbers that initialise the states.
        verbose: 1 prints the compiler's warnings, 2 everything it decided; either prints which
            weight has which rule, where they differ.
        vmap: Compile the step of one sample and run it by `jax.vmap`; states are initialised
            without a batch axis and given one of `batch_size`.
        **options: Arguments of the learner, for example `decay_or_rank=0.9`.

    Raises:
        UnknownLearnerError: If no learner has this name; the message has the nearest match.
        TypeError: If `algorithm` is none of the above.
        CompilationError: If the model cannot be compiled.

    Example:
        >>> import brainstate, etrace_nn, jax.numpy as jnp
        >>> learner = compile(etrace_nn.GRUCell(3, 4), 'pp_prop', jnp.zeros((2, 3)),
        ...                   batch_size=2, decay_or_rank=0.9)
        >>> learner(jnp.ones((2, 3))).shape
        (2, 4)
    """
    learner = make_learner(model, algorithm, options)
    if vmap and not batch_size:
        raise ValueError(
            explain_error(
                'batch_size',
                'is needed with vmap=True',
                got=repr(batch_size),
                expected='the number of samples',
                fix='Pass batch_size=B, and example inputs with that batch axis.',
                code='ETA109',
            )
        )
    sizes = () if vmap or batch_size is None else (batch_size,)
    with nullcontext() if seed is None else brainstate.random.seed_context(seed):
        brainstate.nn.init_all_states(model, *sizes)
    if vmap:
        single = [jax.tree.map(lambda x: jnp.asarray(x)[0], a)
                  for a in get_single_step_data(*example_inputs)]  # fmt: skip
        learner.compile_graph(*single)
        learner.replicate_states(batch_size)
        learner.init_etrace_state()
    else:
        learner.compile_graph(*example_inputs)
    if verbose:
        level = DiagnosticLevel.WARNING if verbose == 1 else DiagnosticLevel.INFO
        CompilationReport(learner.graph).show(level)
        if isinstance(learner, HybridLearner):
            print(learner.choice)
    return learner


def make_learner(model: brainstate.nn.Module, algorithm: Any, options: dict[str, Any]) -> Any:
    """Make the learner that `compile` compiles; see there."""
    if isinstance(algorithm, Mapping):
        return HybridLearner(model, algorithm, **options)
    if algorithm == 'auto':
        return AutoLearner(model, **options)
    return make_single(model, algorithm, options)

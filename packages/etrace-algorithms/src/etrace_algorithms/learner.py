"""What every learner has: a model, its compiled graph, and the live states by role."""

from collections.abc import Callable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from etrace_algorithms.batching import state_axes
from etrace_algorithms.loops import DriveCache
from etrace_algorithms.validation import check_trainable, warn_of_dead_parameters
from etrace_compiler import ControlFlowPolicy, ETraceGraph, ETraceVjpGraphExecutor

__all__ = ['ETraceAlgorithm', 'EligibilityTrace']


class EligibilityTrace(brainstate.ShortTermState):
    """The state that holds a learner's trace."""


class ETraceAlgorithm(brainstate.nn.Module):
    """What every learner has: a model, its compiled graph, and its states by role.

    Args:
        model: A module that does one time step.
        name: Name of the learner.
        control_flow: What to do with loops and branches inside the step.

    Raises:
        TypeError: If `model` is not a `brainstate.nn.Module`.
    """

    def __init__(
        self,
        model: brainstate.nn.Module,
        name: str | None = None,
        control_flow: ControlFlowPolicy | None = None,
    ):
        super().__init__(name=name)  # pyright: ignore[reportCallIssue]
        self.executor = ETraceVjpGraphExecutor(model, control_flow)
        self.model = model
        self.running_index = brainstate.LongTermState(jnp.zeros((), jnp.int32))
        self.batch_axis_size: int | None = None
        self.drives = DriveCache()

    @property
    def is_compiled(self) -> bool:
        """Whether `compile_graph` has been called."""
        return self.executor.is_compiled

    @property
    def graph(self) -> ETraceGraph:
        """The compiled graph.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        return self.executor.graph

    def _live(self, role: str) -> dict[tuple[str, ...], brainstate.State]:
        states = self.executor.states
        return {s.path: states[s.path] for s in self.graph.module_info.by_role(role)}

    @property
    def param_states(self) -> dict[tuple[str, ...], brainstate.State]:
        """The parameters by path, those included that the step does not use."""
        states = self.executor.states
        return {path: states[path] for path in self.graph.module_info.parameter_paths}

    @property
    def hidden_states(self) -> dict[tuple[str, ...], brainstate.State]:
        """The hidden states by path."""
        return self._live('hidden')

    @property
    def other_states(self) -> dict[tuple[str, ...], brainstate.State]:
        """The states that are neither parameters nor hidden, by path."""
        return self._live('other')

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph for one step's arguments, and set the trace to its beginning.

        Args:
            *args: Example arguments; of `MultiStepData` the first step counts.

        Raises:
            CompilationError: If the model cannot be compiled, or nothing in it can be trained.
        """
        executor = ETraceVjpGraphExecutor(self.model, self.executor.control_flow)
        executor.compile_graph(*args)
        check_trainable(executor.graph)
        warn_of_dead_parameters(executor.graph)
        self.executor = executor
        self.drives.clear()
        self.running_index.value = jnp.zeros((), jnp.int32)
        self.init_etrace_state()

    def init_etrace_state(self, *args: Any, **kwargs: Any) -> None:
        """Set the trace to its beginning; a learner with a trace says how."""

    def check_windows(self, step_fn: Callable[..., Any], sequences: tuple, window: Any) -> None:
        """Look at what is asked, before `etrace_grad` runs it; a learner that refuses it raises.

        Args:
            step_fn: The user's function of one step.
            sequences: Its arguments, stacked over time: arrays or their shapes and dtypes.
            window: Steps per window, or a budget of bytes.
        """

    def end_window(self, loss: Any) -> Any:
        r"""Return the loss of a window, with what the learner expects of the steps after it.

        `etrace_grad` calls this at the end of each window of a `'multi-step'` learner, with the
        hidden states there; who writes windows by hand calls it inside what is differentiated.
        The value has to stay, so that a learner adds $\langle s,\ h_K - \bar h_K\rangle$ with a
        signal $s$ of its own, where $\bar h_K$ is $h_K$ as a constant.

        Args:
            loss: Sum of the losses of the window, a scalar.
        """
        return loss

    def reset_state(self, batch_size: int | None = None, **kwargs: Any) -> None:
        """Reset the model's states and the trace.

        Args:
            batch_size: Passed on to the model's `reset_state`.
            **kwargs: Likewise.
        """
        sizes = () if batch_size is None else (batch_size,)
        brainstate.nn.reset_all_states(self.model, *sizes, **kwargs)
        self.running_index.value = jnp.zeros((), jnp.int32)
        if self.batch_axis_size is not None:
            self.replicate_states(self.batch_axis_size)
        self.init_etrace_state()

    def replicate_states(self, size: int) -> None:
        """Give every state of the model a leading batch axis, for a learner that runs by vmap.

        A state that its model resets to zeros of its own shape has it already, and keeps it.

        Args:
            size: Number of copies.
        """
        info = self.graph.module_info
        self.batch_axis_size = size
        live = self.executor.states
        for spec, axis in zip(info.states, state_axes(info).values(), strict=True):
            state = live[spec.path]
            shapes = [(size, *leaf.shape) for leaf in spec.leaves]
            if axis == 0 and [jnp.shape(x) for x in jax.tree.leaves(state.value)] != shapes:
                state.value = jax.tree.map(
                    lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))), state.value
                )

    def show_graph(self, verbose: bool = True, return_msg: bool = False) -> str | None:
        """Describe groups, states and weights in text; see the executor's method."""
        return self.executor.show_graph(verbose, return_msg)

    def __call__(self, *args: Any) -> Any:
        """Run one step, or several; see `update`."""
        return self.update(*args)

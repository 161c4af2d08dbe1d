"""The executors: a model and its compiled graph, with the live states by path."""

from typing import Any

import brainstate
import jax

from etrace_compiler._compile import compile_etrace_graph
from etrace_compiler.canonical import ControlFlowPolicy
from etrace_compiler.errors import explain_error
from etrace_compiler.evaluate import StepEvaluator
from etrace_compiler.graph import ETraceGraph
from etrace_compiler.input_data import get_single_step_data
from etrace_compiler.linearise import Linearisation, Lineariser
from etrace_compiler.report import describe_graph
from etrace_compiler.staging import all_states, check_module

__all__ = ['ETraceGraphExecutor', 'ETraceVjpGraphExecutor']


class ETraceGraphExecutor:
    """Hold a model and the graph compiled from it.

    Args:
        model: A module that does one time step.
        control_flow: What to do with loops and branches inside the step.

    Raises:
        TypeError: If `model` is not a `brainstate.nn.Module`.

    Example:
        >>> import brainstate, jax.numpy as jnp
        >>> from etrace_nn import GRUCell
        >>> cell = GRUCell(3, 4)
        >>> _ = brainstate.nn.init_all_states(cell)
        >>> executor = ETraceGraphExecutor(cell)
        >>> executor.compile_graph(jnp.ones(3))
        >>> sorted(executor.path_to_states)[0]
        ('Wh', 'weight')
    """

    def __init__(self, model: brainstate.nn.Module, control_flow: ControlFlowPolicy | None = None):
        check_module(model)
        self.model = model
        self.control_flow = control_flow
        self._graph: ETraceGraph | None = None

    @property
    def is_compiled(self) -> bool:
        """Whether `compile_graph` has been called."""
        return self._graph is not None

    @property
    def graph(self) -> ETraceGraph:
        """The compiled graph.

        Raises:
            ValueError: If `compile_graph` has not been called.
        """
        if self._graph is None:
            raise ValueError(
                explain_error(
                    'graph',
                    'is not compiled yet',
                    got='no compiled graph',
                    expected='a call of compile_graph(*example_inputs) first',
                    fix='Call compile_graph with the inputs of one step.',
                    code='ETC111',
                )
            )
        return self._graph

    @property
    def states(self) -> brainstate.util.FlattedDict:
        """The live states of the model by path, also after they were initialised again."""
        compiled = self.graph.module_info.retrieved_model_states
        return brainstate.util.FlattedDict({**compiled, **all_states(self.model)})

    @property
    def path_to_states(self) -> brainstate.util.FlattedDict:
        """The live states of the model by path."""
        return self.states

    @property
    def state_id_to_path(self) -> dict[int, tuple[Any, ...]]:
        """Path of every live state by its `id`."""
        return {id(state): path for path, state in self.states.items()}

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph for the shapes and dtypes of one step's arguments.

        Args:
            *args: Example arguments; of `MultiStepData` the first step counts.
        """
        self._graph = compile_etrace_graph(
            self.model, *get_single_step_data(*args), control_flow=self.control_flow
        )

    def show_graph(self, verbose: bool = True, return_msg: bool = False) -> str | None:
        """Describe groups, states and weights in text.

        Args:
            verbose: Whether to print the text.
            return_msg: Whether to return it.
        """
        text = describe_graph(self.graph)
        if verbose:
            print(text)
        return text if return_msg else None

    def solve_h2w_h2h_jacobian(self, *args: Any) -> Any:
        """Compute one step and its Jacobians; a subclass says how.

        Raises:
            NotImplementedError: Always, in this class.
        """
        raise NotImplementedError(
            'solve_h2w_h2h_jacobian is left to a subclass; use ETraceVjpGraphExecutor'
        )

    def solve_h2w_h2h_l2h_jacobian(self, *args: Any) -> Any:
        """Compute one step, its Jacobians and the loss-to-hidden residuals; see above.

        Raises:
            NotImplementedError: Always, in this class.
        """
        raise NotImplementedError(
            'solve_h2w_h2h_l2h_jacobian is left to a subclass; use ETraceVjpGraphExecutor'
        )


class ETraceVjpGraphExecutor(ETraceGraphExecutor):
    """An executor whose Jacobians come from reverse-mode differentiation."""

    def compile_graph(self, *args: Any) -> None:
        """Compile the graph; see `ETraceGraphExecutor.compile_graph`."""
        super().compile_graph(*args)
        self.lineariser = Lineariser(self.graph)
        graph = self.graph
        self.evaluator = StepEvaluator(
            graph.module_info, graph.hidden_groups, graph.hidden_param_op_relations
        )

    def state_values(self) -> dict[str, Any]:
        """Current value of every state that the step touches, by key."""
        live = self.states
        return {s.key: live[s.path].value for s in self.graph.module_info.states}

    def solve_h2w_h2h_jacobian(self, *args: Any) -> tuple[Any, dict, dict, Any, tuple]:
        """Compute one step from the current states, and how it depends on weights and states.

        Args:
            *args: Arguments of the step.

        Returns:
            The output; new hidden states by key; other new states by key; the
            hidden-to-weight Jacobian as a pair `(x, f)` by relation key, whose outer product
            it is; the hidden-to-hidden Jacobian, per group `(*varshape, S, S)`.
            States are not written.
        """
        states = self.state_values()
        out, new, lin = self.lineariser(get_single_step_data(*args), states)
        hidden, other = self._split(new)
        return out, hidden, other, (lin.x, lin.f), lin.D

    def solve_h2w_h2h_l2h_jacobian(self, *args: Any) -> tuple[Any, dict, dict, Any, tuple, Any]:
        """Compute the same as `solve_h2w_h2h_jacobian`, and the loss-to-hidden residuals.

        Returns:
            What `solve_h2w_h2h_jacobian` returns, and a function from the cotangents of
            `(output, new states by key)` to the learning signals, one list of arrays per group.
        """
        args = get_single_step_data(*args)
        states = self.state_values()
        out, hidden, other, h2w, h2h = self.solve_h2w_h2h_jacobian(*args)
        zeros = [[jax.numpy.zeros(s.leaves[0].shape, s.leaves[0].dtype) for s in g.hidden_states]
                 for g in self.graph.hidden_groups]  # fmt: skip
        _, pull = jax.vjp(lambda p: self.evaluator(args, states, p), zeros)
        return out, hidden, other, h2w, h2h, lambda cotangents: pull(cotangents)[0]

    def linearise(self, *args: Any) -> Linearisation:
        """Return the linearisation of one step from the current states."""
        states = self.state_values()
        return self.lineariser(get_single_step_data(*args), states)[2]

    def _split(self, new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        info = self.graph.module_info
        hidden = {s.key: new[s.key] for s in info.by_role('hidden')}
        return hidden, {s.key: new[s.key] for s in info.by_role('other')}

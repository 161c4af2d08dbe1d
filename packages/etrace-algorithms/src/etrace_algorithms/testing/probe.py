"""A probe of a small model: what its states, relations and gradients are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import brainstate
import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms._compile import compile as compile_learner
from etrace_algorithms._compile import make_learner
from etrace_algorithms.plan import memory_plan
from etrace_algorithms.testing.oracles import gradient_alignment
from etrace_compiler import Verdict, path_key
from etrace_compiler.staging import all_states

__all__ = ['Facts', 'Probe']

Gradients = Mapping[tuple[Any, ...], Any]

_WORST = (Verdict.ZERO, Verdict.APPROXIMATE, Verdict.WITHIN_LAYER, Verdict.EXACT)


@dataclass(frozen=True)
class Facts:
    """What a probe tells about a model.

    Attributes:
        states: Shape of each hidden state without the batch axis, by path.
        relations: Number of operations that carry a trace.
        verdict: The worst verdict on the gradient of a parameter.
        trace_bytes: Bytes of the traces of `d_rtrl`.
        cosine: Cosine of the angle between the gradients of `d_rtrl` and of backpropagation.
    """

    states: Mapping[str, tuple[int, ...]]
    relations: int
    verdict: Verdict
    trace_bytes: int
    cosine: float


class Probe:
    """One model, one sequence, and gradients of it by whichever way.

    Every gradient starts from the same random states. A mask selects the steps whose losses
    count, so that one compiled program serves the first step and the whole sequence.

    Args:
        model: A model that takes one array; its states are initialised here.
        xs: Inputs `(T, B, ...)`.
        seed: Seed of the states at the beginning.
        dtype: Of inputs, parameters and states; that of the model by default.

    Attributes:
        outputs: What the model returned in the last run of a learner, stacked.

    Example:
        >>> import etrace_nn, jax.numpy as jnp
        >>> probe = Probe(etrace_nn.MiniGRU(3, 4), jnp.ones((5, 2, 3)))
        >>> probe.facts().verdict.value, probe.facts().states
        ('exact', {'h': (4,)})
    """

    outputs: Any

    def __init__(self, model: brainstate.nn.Module, xs: Any, seed: int = 0, dtype: Any = None):
        self.model, self.xs = model, _in_dtype(jnp.asarray(xs), dtype)
        brainstate.nn.init_all_states(model, self.xs.shape[1])
        _disturb(model, seed)
        if dtype is not None:
            _cast(model, dtype)
        self.learner = self.another()
        self.start = {path: s.value for path, s in self.learner.executor.states.items()}
        self._steps: dict[int, Any] = {}
        self._backpropagated: Any = brainstate.transform.jit(self._backpropagate)

    def another(self, algorithm: Any = 'd_rtrl', **options: Any) -> Any:
        """Compile a learner on the states of the model as they are."""
        learner = make_learner(self.model, algorithm, options)
        learner.compile_graph(self.xs[0])
        return learner

    def vmapped(self, algorithm: Any = 'd_rtrl', **options: Any) -> Any:
        """Compile a learner that runs by vmap; the model then has states of its own for it."""
        options = {'batch_size': self.xs.shape[1], 'vmap': True, **options}
        return compile_learner(self.model, algorithm, self.xs[0], **options)

    @property
    def first(self) -> Any:
        """The mask of the first step."""
        return jnp.zeros(self.xs.shape[0]).at[0].set(1)

    def online(self, learner: Any = None, mask: Any = None, chunk_size: int = 1) -> Gradients:
        """Return the gradient of a learner.

        Args:
            learner: One of this probe; by default that which it begins with.
            mask: Weights of the losses of the steps.
            chunk_size: Steps per window.
        """
        learner = self.learner if learner is None else learner

        def step(x: Any) -> Any:
            out = learner(x)
            return loss_of(out), out

        self.restart(learner)
        gradients, self.outputs = learner.etrace_grad(
            self.xs,
            step_fn=self._steps.setdefault(id(learner), step),
            mask=mask,
            reduction='sum',
            chunk_size=chunk_size,
            has_aux=True,
        )
        return gradients

    def backpropagated(self, mask: Any = None) -> Gradients:
        """Return the gradient of backpropagation through time."""
        self.restart(self.learner)
        gradients = self._backpropagated(jnp.ones(len(self.xs)) if mask is None else mask)
        self.restart(self.learner)
        return gradients

    def restart(self, learner: Any) -> None:
        """Set the model to the states of the probe, and a learner's trace to its beginning."""
        for path, state in learner.executor.states.items():
            state.value = self.start[path]
        learner.init_etrace_state()

    def facts(self) -> Facts:
        """Measure what there is to know about the model."""
        graph = self.learner.graph
        cosine, _ = gradient_alignment(self.online(), self.backpropagated())
        verdicts = [found.verdict for found in graph.exactness.values()]
        hidden = [(group, spec) for group in graph.hidden_groups for spec in group.hidden_states]
        return Facts(
            {spec.key: group.varshape[1:] for group, spec in hidden},
            len(graph.hidden_param_op_relations),
            min(verdicts, key=_WORST.index),
            memory_plan(graph)['d_rtrl'].trace_bytes,
            cosine,
        )

    def _backpropagate(self, mask: Any) -> Gradients:
        params: Any = self.model.states(brainstate.ParamState)

        def total() -> Any:
            losses = brainstate.transform.for_loop(lambda x: loss_of(self.model(x)), self.xs)
            return jnp.sum(losses * mask)

        gradient: Any = brainstate.transform.grad(total, params, check_states=False)
        return gradient()


def loss_of(out: Any) -> Any:
    """Return the loss of an output: no element of it is without a derivative, or like another."""
    value = u.get_mantissa(out)
    return jnp.sum(jnp.sin(value + jnp.linspace(0, 1, value.shape[-1], dtype=value.dtype)))


def _disturb(model: brainstate.nn.Module, seed: int) -> None:
    """Move the hidden states off their initial values."""
    random = np.random.default_rng(seed)
    for _, state in sorted(all_states(model).items(), key=lambda item: path_key(item[0])):
        if isinstance(state, brainstate.HiddenState):
            state.value = jax.tree.map(
                lambda x: x + 0.5 * random.normal(size=x.shape).astype(x.dtype), state.value
            )


def _cast(model: brainstate.nn.Module, dtype: Any) -> None:
    """Change the type of all states and parameters of real numbers."""
    for state in all_states(model).values():
        state.value = jax.tree.map(lambda x: _in_dtype(x, dtype), state.value)


def _in_dtype(x: Any, dtype: Any) -> Any:
    return x if dtype is None or not jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)

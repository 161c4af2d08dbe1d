r"""`rtrl`: exact real-time recurrent learning.

$$M_t = \frac{\mathrm{d}h_t}{\mathrm{d}\theta} = J_t\,M_{t-1} + F_t, \qquad
\text{history}_t = \frac{\partial\ell_t}{\partial h_{t-1}}\,M_{t-1},$$

with $J_t = \partial h_t/\partial h_{t-1}$ and $F_t = \partial h_t/\partial\theta$ of all hidden
states, through all groups and layers. $J_t$ is never formed: it multiplies the columns of $M$.

References:
    Williams & Zipser (1989), A learning algorithm for continually running fully recurrent neural
    networks, Neural Computation 1(2), doi:10.1162/neco.1989.1.2.270.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from etrace_algorithms import (
    ETraceGraph,
    Exactness,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
)
from etrace_compiler import driving_parameters
from etrace_snap.states import from_vector, real_dtype, to_vector, vector_size

__all__ = ['RTRL']

#: By key of a parameter that acts on hidden states: rows of the influence matrix, in the form of
#: its value with an axis of all `n` numbers of the hidden states in front.
Influence = dict[str, Any]


@dataclass(frozen=True)
class RTRL(LearningRule):
    """The whole influence matrix: equal to backpropagation through time for every model.

    One entry for each number of a hidden state and each of a parameter, and a product of the
    one-step Jacobian with each column: for small models, and to hold others against.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(2, 3)
        >>> learner = etrace_algorithms.compile(cell, RTRL(), jnp.zeros(2))
        >>> learner(jnp.ones(2)).shape
        (3,)
        >>> [m.shape for m in jax.tree.leaves(learner.etrace.value['Wh.weight'])]
        [(3, 3), (3, 5, 3)]
    """

    signal_at = 'old'
    credits = 'parameters'

    @property
    def exactness(self) -> Exactness:
        return Exactness.EXACT

    def init(self, graph: ETraceGraph) -> Influence:
        """Return the trace before the first step: zeros."""
        driving, size = driving_parameters(graph), vector_size(graph)
        return {
            s.key: s.treedef.unflatten([jnp.zeros((size, *x.shape), x.dtype) for x in s.leaves])
            for s in graph.module_info.by_role('param')
            if s.key in driving
        }

    def update(self, trace: Influence, lin: Linearisation) -> Influence:
        r"""Return $J_t\,M_{t-1} + F_t$."""
        graph = lin.graph
        if not trace:  # no parameter acts on a hidden state
            return trace

        def immediate(unit: Any) -> Influence:
            found = lin.vjp_step(from_vector(graph, unit, dual=True))[1]
            return {key: found[key] for key in trace}

        def carried(column: Any) -> Any:
            return to_vector(lin.jvp_h(from_vector(graph, column)))

        by_columns = jax.vmap(carried, in_axes=1, out_axes=1)
        rows = jax.vmap(lambda m: ravel_pytree(m)[0])(trace)  # (n, P)
        if jnp.iscomplexobj(rows):
            product = by_columns(rows.real) + 1j * by_columns(rows.imag)
        else:
            product = by_columns(rows)
        unravel = ravel_pytree(jax.tree.map(lambda m: m[0], trace))[1]
        before = jax.vmap(unravel)(product.astype(rows.dtype))  # J M
        now = jax.vmap(immediate)(jnp.eye(vector_size(graph), dtype=real_dtype(graph)))  # F
        return jax.tree.map(lambda m, f: (m + f).astype(m.dtype), before, now)

    def credit(self, trace: Influence, signal: LearningSignal) -> Gradients:
        """Multiply a learning signal at the old states by the influence matrix."""
        s = to_vector(signal.values, dual=True)
        return {
            p.key: jax.tree.map(lambda m: jnp.tensordot(s.astype(m.dtype), m, axes=1), trace[p.key])
            if p.key in trace
            else p.treedef.unflatten([jnp.zeros(x.shape, x.dtype) for x in p.leaves])
            for p in signal.graph.module_info.by_role('param')
        }

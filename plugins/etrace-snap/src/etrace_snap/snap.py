r"""`snap`: real-time recurrent learning of the entries that few steps can reach.

$$\tilde M_t = K_n \odot \bigl(J_t\,\tilde M_{t-1} + F_t\bigr), \qquad
\text{history}_t = \frac{\partial\ell_t}{\partial h_{t-1}}\,\tilde M_{t-1},$$

where the pattern $K_n$ keeps an entry if the parameter can act on the state within `n` steps.
The pattern is that of the compiled step, not of its values: masks, sparse products and
convolutions make it sparse, and so does every operation that leaves positions apart.

The signal enters at the old states, so that the last product, with $J_t$, is complete. The
original contracts $\partial\ell_t/\partial h_t$ with $\tilde M_t$, masked once more: what the mask
takes from the present step there counts here. What is stored is the same.

References:
    Menick et al. (2021), Practical real time recurrent learning with a sparse approximation to
    the Jacobian, arXiv:2006.07232.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms import (
    ETraceGraph,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
)
from etrace_snap.pattern import Kept, kept_entries
from etrace_snap.states import from_vector, real_dtype, to_vector, vector_size

__all__ = ['SnAp']

#: By parameter key, per leaf the entries that are kept: `(P, k)`, `k` states for each parameter.
Entries = dict[str, tuple[Any, ...]]

#: So many rows of the Jacobian are found side by side.
_ROWS = 64


@dataclass(frozen=True)
class SnAp(LearningRule):
    """Keep what a parameter does to the positions that it reaches within `n` steps.

    With `n=1` these are the positions that it drives itself; where the recurrence is
    position-diagonal that is exact. With `n` as large as the longest way between two positions,
    nothing is left out, and `rtrl` is the faster way to the same gradient.

    Args:
        n: Steps, from 1 on.

    Raises:
        ValueError: If `n` is not an integer from 1 on.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(2, 3)
        >>> learner = etrace_algorithms.compile(cell, SnAp(n=1), jnp.zeros(2))
        >>> learner(jnp.ones(2)).shape
        (3,)
        >>> [m.shape for m in jax.tree.leaves(learner.etrace.value['Wh.weight'])]
        [(3, 1), (15, 1)]
    """

    n: int = 1

    signal_at = 'old'
    credits = 'parameters'

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise ValueError(
                f'`n` is out of range: got {self.n!r}; expected an integer from 1 on. Use 1 '
                'for the least memory; more steps come nearer to backpropagation. [SNAP101]'
            )

    def init(self, graph: ETraceGraph) -> Entries:
        """Return the trace before the first step: zeros."""
        kept = kept_entries(graph, self.n)
        return {
            s.key: tuple(
                jnp.zeros(k.states.shape, x.dtype)
                for k, x in zip(kept[s.key], s.leaves, strict=True)
            )
            for s in graph.module_info.by_role('param')
            if any(k.states.size for k in kept[s.key])
        }

    def update(self, trace: Entries, lin: Linearisation) -> Entries:
        r"""Return the kept entries of $J_t\,\tilde M_{t-1} + F_t$, row by row."""
        graph = lin.graph
        if not trace:  # no parameter acts on a hidden state
            return trace
        kept = {key: kept_entries(graph, self.n)[key] for key in trace}
        size = vector_size(graph)

        def row(given: tuple[Any, Any]) -> Any:
            number, params = given
            unit = jnp.zeros(size, real_dtype(graph)).at[number].set(1)
            hidden, found, _ = lin.vjp_step(from_vector(graph, unit, dual=True))
            jacobian = to_vector(hidden, dual=True)  # J_t[i]

            def entries(m: Any, k: Kept, f: Any, at: Any) -> Any:
                before = jnp.sum(jacobian[jnp.asarray(k.states)[at]] * m[at], axis=1)
                return (before + f.reshape(-1)[at]).astype(m.dtype)

            return {
                key: tuple(map(entries, trace[key], kept[key], jax.tree.leaves(found[key]),
                               params[key]))
                for key in trace
            }  # fmt: skip

        params = {key: tuple(k.params for k in leaves) for key, leaves in kept.items()}
        rows = jax.lax.map(row, (jnp.arange(size), params), batch_size=min(size, _ROWS))

        def by_columns(found: Any, k: Kept) -> Any:
            if not k.states.size:
                return jnp.zeros(k.states.shape, found.dtype)
            return jnp.where(k.inside, found.reshape(-1)[k.place], 0)

        return {key: tuple(map(by_columns, rows[key], kept[key])) for key in trace}

    def credit(self, trace: Entries, signal: LearningSignal) -> Gradients:
        """Multiply a learning signal at the old states by the kept entries."""
        s, kept = to_vector(signal.values, dual=True), kept_entries(signal.graph, self.n)
        gradients = {}
        for p in signal.graph.module_info.by_role('param'):
            entries = trace.get(p.key, (0,) * len(p.leaves))
            gradients[p.key] = p.treedef.unflatten([
                jnp.sum(s[k.states] * m, axis=1).reshape(x.shape).astype(x.dtype)
                for m, k, x in zip(entries, kept[p.key], p.leaves, strict=True)
            ])  # fmt: skip
        return gradients

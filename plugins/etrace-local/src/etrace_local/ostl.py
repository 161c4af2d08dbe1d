r"""`ostl` and `ostl_feedforward`: online spatio-temporal learning.

$$\varepsilon_t = \frac{\mathrm{d}s_t}{\mathrm{d}s_{t-1}}\,\varepsilon_{t-1} +
\frac{\partial s_t}{\partial\theta}, \qquad
\frac{\mathrm{d}s_t}{\mathrm{d}s_{t-1}} = \frac{\partial s_t}{\partial s_{t-1}} +
\frac{\partial s_t}{\partial y_{t-1}}\frac{\partial y_{t-1}}{\partial s_{t-1}}, \qquad
\nabla = \sum_t \langle L_t,\ \varepsilon_t \rangle$$

The gradient of the paper is separated: in time, along the states `s` of one layer; and in space,
from layer to layer within a step. What goes through both, into another layer and on in time there,
is left out. A layer is a hidden group, and `y` what it sends out.

References:
    Bohnstingl et al. (2022), Online spatio-temporal learning in deep neural networks, IEEE
    Transactions on Neural Networks and Learning Systems, doi:10.1109/TNNLS.2022.3153985,
    arXiv:2007.12723.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms import (
    ETraceGraph,
    Exactness,
    Gradients,
    LearningRule,
    LearningSignal,
    Linearisation,
)
from etrace_algorithms.rules import advance_traces, credit_traces, zero_traces

__all__ = ['OSTL', 'FeedforwardOSTL']


@dataclass(frozen=True)
class OSTL(LearningRule):
    r"""With recurrence: the complete Jacobian of each layer, `O(B P S I O)` for `P` units.

    All terms within a layer are kept: leaks, resets, gates, and the *whole* recurrent matrix, its
    diagonal and what is beside it. A model of one layer, of whatever recurrence, has the gradient
    of backpropagation; of several layers only the terms through another layer's past are missing.

    Compile with `vmap=True` where there is a batch: one trace per sample is `B` times smaller than
    one of the whole batch.
    """

    @property
    def exactness(self) -> Exactness:
        return Exactness.EXACT_DIAGONAL

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        return {
            r.key: tuple(
                jnp.zeros((*r.block_shape[1:], *g.varshape, g.num_state), g.dtype)
                for g in r.hidden_groups
            )
            for r in graph.hidden_param_op_relations
        }

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        driven = {g.index for r in lin.relations for g in r.hidden_groups}
        rows = {index: _rows(lin, index) for index in driven}
        return {
            r.key: tuple(
                _advance(lin, g.index, e) + _drive(rows[g.index][r.key], lin.x[r.key], e)
                for g, e in zip(r.hidden_groups, trace[r.key], strict=True)
            )
            for r in lin.relations
        }

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        return {
            r.key: sum(
                jnp.tensordot(e, signal.values[g.index], signal.values[g.index].ndim)
                for g, e in zip(r.hidden_groups, trace[r.key], strict=True)
            )
            for r in signal.graph.hidden_param_op_relations
        }

    def history(
        self,
        before: dict[str, Any],
        after: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        values = tuple(
            lin.vjp_h(_alone(lin, i, value))[i].astype(value.dtype)
            for i, value in enumerate(signal.values)
        )
        pulled = LearningSignal(lin.graph, values)
        return self.credit(before, pulled if bypass is None else pulled + bypass)


def _alone(lin: Linearisation, index: int, value: Any) -> tuple[Any, ...]:
    """Values of one group, and zeros of the others."""
    return tuple(value if i == index else jnp.zeros_like(h) for i, h in enumerate(lin.hidden))


def _rows(lin: Linearisation, index: int) -> dict[str, Any]:
    """Derivatives of a layer's new states with respect to operations: `(P S, G, H, O)`."""
    like = lin.hidden[index]
    rows = jnp.eye(like.size, dtype=like.dtype).reshape((-1, *like.shape))
    return jax.vmap(lambda row: lin.vjp_step(_alone(lin, index, row))[2])(rows)


def _advance(lin: Linearisation, index: int, trace: Any) -> Any:
    """Multiply the Jacobian of a layer by every column of a trace `(H, I, O, *varshape, S)`."""
    columns = trace.reshape((-1, *lin.hidden[index].shape))
    moved = jax.vmap(lambda column: lin.jvp_h(_alone(lin, index, column))[index])(columns)
    return moved.reshape(trace.shape).astype(trace.dtype)


def _drive(rows: Any, x: Any, trace: Any) -> Any:
    """The part of the step itself: in the form of the trace."""
    return jnp.einsum('pgho,ghi->hiop', rows, x).reshape(trace.shape).astype(trace.dtype)


@dataclass(frozen=True)
class FeedforwardOSTL(LearningRule):
    r"""Without recurrence: what each unit keeps by itself, `O(B I O S)`.

    Of the layer's Jacobian $\partial s_t/\partial s_{t-1}$ and the way through a unit's own output
    (its reset) are kept, position by position. No entry of a recurrent matrix is, nor its diagonal.
    Without recurrent weights nothing within the layer is missing. The recursion is then that of
    `d_rtrl`; where a unit has one state whose leak and drive are constant, the trace is a product
    of a trace of the input and the drive, which is `ottt`.

    Args:
        trace_dtype: Dtype in which traces are stored; that of the states by default.
    """

    trace_dtype: Any = None

    @property
    def exactness(self) -> Exactness:
        return Exactness.EXACT_DIAGONAL

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        return zero_traces(graph, self.trace_dtype)

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        return advance_traces(trace, lin, as_compiled=True)

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        return credit_traces(trace, signal)

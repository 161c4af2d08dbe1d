r"""`kf_rtrl`: real-time recurrent learning with random Kronecker factors.

Of an operation $y = x\,W$ the immediate part of the influence matrix is a Kronecker product
$F_t = x_t \otimes D_t$, of the input and of $D_t = \partial h_t/\partial y_t$. So the matrix is
kept as one, $M_t = \mathbb{E}\,[u_t \otimes A_t]$ with

$$u_t = c_1 p_1\,u_{t-1} + c_2 p_2\,x_t, \qquad
A_t = \frac{c_1}{p_1}\,J_t A_{t-1} + \frac{c_2}{p_2}\,D_t,$$

random signs $c$, $p_1 = \sqrt{\|J_t A_{t-1}\| / \|u_{t-1}\|}$ and $p_2 = \sqrt{\|D_t\| / \|x_t\|}$.
There is one pair of factors, with signs of its own, for each operation, and for each place where it
uses its weight: sample, location, block.

References:
    Mujika, Meier & Steger (2018), Approximating real-time recurrent learning with random Kronecker
    factors, NeurIPS, arXiv:1805.10842.
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
from etrace_algorithms.algebra import product_gradient
from etrace_compiler import HiddenParamOpRelation
from etrace_uoro.balance import balanced, check_seed, norm
from etrace_uoro.coverage import check_coverage

__all__ = ['KFRTRL']

#: `u`: by relation key `(G, H, I)`; `A`: likewise, per group `(G, H, O, *varshape, S)`; `key`.
Trace = dict[str, Any]


@dataclass(frozen=True)
class KFRTRL(LearningRule):
    """A random Kronecker product in the place of the influence matrix; right on average.

    Args:
        sign_seed: Seed of the random signs. With `vmap=True` every sample has signs of its own. A
            trace that is reset begins with the same signs again.

    Raises:
        ValueError: If the seed is no integer.
        NotSupportedError: When a model is compiled in which a parameter acts on hidden states
            beside the marked operations, or the result of one of them is complex.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(2, 3)
        >>> learner = etrace_algorithms.compile(cell, KFRTRL(sign_seed=1), jnp.zeros(2))
        >>> learner(jnp.ones(2)).shape
        (3,)
    """

    sign_seed: int = 0

    signal_at = 'old'

    def __post_init__(self) -> None:
        check_seed(self.sign_seed)

    @property
    def exactness(self) -> Exactness:
        return Exactness.UNBIASED

    def init(self, graph: ETraceGraph) -> Trace:
        """Return the trace before the first step: zeros, and a random key."""
        check_coverage(graph)
        relations = graph.hidden_param_op_relations
        return {
            'u': {r.key: jnp.zeros(r.block_shape[:3], r.dtype) for r in relations},
            'A': {
                r.key: tuple(
                    jnp.zeros((*_result(r), *g.varshape, g.num_state), g.dtype)
                    for g in graph.hidden_groups
                )
                for r in relations
            },
            'key': jax.random.key(self.sign_seed),
        }

    def update(self, trace: Trace, lin: Linearisation) -> Trace:
        """Advance the factors of every operation by one step."""
        key, *keys = jax.random.split(trace['key'], 1 + len(lin.relations))
        new: Trace = {'u': {}, 'A': {}, 'key': key}
        for r, draw in zip(lin.relations, keys, strict=True):
            u, x = trace['u'][r.key], lin.x[r.key]
            carried = _for_each_result(lin.jvp_h, trace['A'][r.key])  # J A
            driven = _for_each_result(lambda y, r=r: _push(lin, r, y), _units(r))  # D
            c = jax.random.rademacher(draw, (2, *u.shape[:2]), u.dtype)
            grow, shrink = balanced(_size(carried), norm(u, (2,)))
            grow_new, shrink_new = balanced(_size(driven), norm(x, (2,)))
            rows = (c[0] * grow)[..., None] * u + (c[1] * grow_new)[..., None] * x
            new['u'][r.key] = rows.astype(u.dtype)
            new['A'][r.key] = jax.tree.map(
                lambda a, d, f=c[0] * shrink, g=c[1] * shrink_new: (
                    _along(f, a) * a + _along(g, d) * d
                ).astype(a.dtype),
                carried,
                driven,
            )
        return new

    def credit(self, trace: Trace, signal: LearningSignal) -> Gradients:
        r"""Return $u \otimes \langle s, A\rangle$ for every operation."""
        found = {}
        for r in signal.graph.hidden_param_op_relations:
            parts = zip(signal.values, trace['A'][r.key], strict=True)
            pulled = sum(jnp.tensordot(a, s, axes=s.ndim).real for s, a in parts)
            found[r.key] = product_gradient(pulled, trace['u'][r.key])
        return found


def _result(r: HiddenParamOpRelation) -> tuple[int, int, int]:
    shared, heads, _, width = r.block_shape
    return shared, heads, width


def _units(r: HiddenParamOpRelation) -> Any:
    """One result each: `(G, H, O, G, H, O)`."""
    shape = _result(r)
    count = shape[0] * shape[1] * shape[2]
    return jnp.eye(count, dtype=r.dtype).reshape((*shape, *shape))


def _push(lin: Linearisation, r: HiddenParamOpRelation, result: Any) -> tuple[Any, ...]:
    """Multiply the derivative of new states with respect to a result by a vector."""
    zeros = jax.tree.map(jnp.zeros_like, lin.hidden)
    return jax.vjp(lambda c: lin.vjp_step(c)[2][r.key], zeros)[1](result)[0]


def _for_each_result(function: Any, values: Any) -> Any:
    return jax.vmap(jax.vmap(jax.vmap(function)))(values)


def _size(parts: tuple[Any, ...]) -> Any:
    """The norm of a factor `A`, for each place `(G, H)`."""
    return norm([a.reshape((*a.shape[:2], -1)) for a in parts], (2,))


def _along(factors: Any, array: Any) -> Any:
    return factors.reshape((*factors.shape, *(1,) * (array.ndim - 2)))

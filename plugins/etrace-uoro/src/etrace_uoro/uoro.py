r"""`uoro`: unbiased online recurrent optimisation.

In the place of the influence matrix $M_t = J_t M_{t-1} + F_t$ stands a random one of rank one that
is right on average: $M_t = \mathbb{E}\,[\tilde h_t \otimes \tilde\theta_t]$ with

$$\tilde h_t = \rho_0\,J_t\,\tilde h_{t-1} + \rho_1\,\nu_t, \qquad
\tilde\theta_t = \frac{\tilde\theta_{t-1}}{\rho_0} + \frac{\nu_t^\top F_t}{\rho_1},$$

random signs $\nu_t$, and $\rho_0 = \sqrt{\|\tilde\theta_{t-1}\| / \|J_t \tilde h_{t-1}\|}$,
$\rho_1 = \sqrt{\|\nu_t^\top F_t\| / \|\nu_t\|}$, with which the variance is least. A step costs one
forward and one reverse product with the step, and no Jacobian.

References:
    Tallec & Ollivier (2018), Unbiased online recurrent optimization, ICLR, arXiv:1702.05043.
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
from etrace_uoro.balance import balanced, check_seed, norm, signs

__all__ = ['UORO']

#: `state`: $\tilde h$, per group; `params`: $\tilde\theta$, by parameter key; `key`: random key.
Trace = dict[str, Any]


@dataclass(frozen=True)
class UORO(LearningRule):
    """A random matrix of rank one in the place of the influence matrix; right on average.

    Args:
        sign_seed: Seed of the random signs. With `vmap=True` every sample has signs of its own. A
            trace that is reset begins with the same signs again.

    Raises:
        ValueError: If the seed is no integer.

    Example:
        >>> import brainstate, etrace_algorithms, etrace_nn, jax.numpy as jnp
        >>> cell = etrace_nn.GRUCell(2, 3)
        >>> learner = etrace_algorithms.compile(cell, UORO(sign_seed=1), jnp.zeros(2))
        >>> learner(jnp.ones(2)).shape
        (3,)
        >>> learner.get_etrace_of('Wh.weight')['params']['Wh.weight']['weight'].shape
        (5, 3)
    """

    sign_seed: int = 0

    signal_at = 'old'
    credits = 'parameters'

    def __post_init__(self) -> None:
        check_seed(self.sign_seed)

    @property
    def exactness(self) -> Exactness:
        return Exactness.UNBIASED

    def init(self, graph: ETraceGraph) -> Trace:
        """Return the trace before the first step: zeros, and a random key."""
        return {
            'state': tuple(
                jnp.zeros((*g.varshape, g.num_state), g.dtype) for g in graph.hidden_groups
            ),
            'params': {
                s.key: s.treedef.unflatten([jnp.zeros(x.shape, x.dtype) for x in s.leaves])
                for s in graph.module_info.by_role('param')
            },
            'key': jax.random.key(self.sign_seed),
        }

    def update(self, trace: Trace, lin: Linearisation) -> Trace:
        """Advance both factors by one step."""
        key, draw = jax.random.split(trace['key'])
        nu = signs(draw, lin.hidden)
        carried = lin.jvp_h(trace['state'])  # J h~
        pulled = lin.vjp_step(tuple(map(jnp.conj, nu)))[1]  # nu F
        grow, shrink = balanced(norm(trace['params']), norm(carried))
        grow_new, shrink_new = balanced(norm(pulled), norm(nu))
        return {
            'state': jax.tree.map(
                lambda h, v: (grow * h + grow_new * v).astype(h.dtype), carried, nu
            ),
            'params': jax.tree.map(
                lambda p, f: (shrink * p + shrink_new * f).astype(p.dtype), trace['params'], pulled
            ),
            'key': key,
        }

    def credit(self, trace: Trace, signal: LearningSignal) -> Gradients:
        r"""Return $\langle s, \tilde h\rangle\,\tilde\theta$."""
        parts = zip(signal.values, trace['state'], strict=True)
        total = sum(jnp.sum((s * h).real) for s, h in parts)
        return jax.tree.map(lambda p: (total * p).astype(p.dtype), trace['params'])

"""Every operator on random shapes, beside what it should be without any mark."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from etrace_compiler import Operator, einsum, grouped_matmul, matmul
from etrace_compiler._jax import Literal
from etrace_compiler.ops import operator_of

from . import models

sides = st.integers(1, 3)
leads = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@dataclass(frozen=True)
class Case:
    """One operator on one choice of shapes.

    Attributes:
        call: `(x, weight, bias=None, **hooks) -> y`, the operator.
        plain: `(x, weight) -> y`, the same without a mark.
        x: Input.
        weight: Weight.
        bias_shape: Shape of a bias, which broadcasts to the result.
    """

    call: Callable[..., Any]
    plain: Callable[..., Any]
    x: Any
    weight: Any
    bias_shape: tuple[int, ...]


def dense(draw):
    n_in, n_out = draw(sides), draw(sides)
    x, w = models.random(*draw(leads), n_in), models.random(n_in, n_out, seed=1)
    return Case(matmul, lambda x, w: x @ w, x, w, (n_out,))


def grouped(draw):
    groups, n_in, n_out = draw(sides), draw(sides), draw(sides)
    x = models.random(*draw(leads), groups, n_in)
    w = models.random(groups, n_in, n_out, seed=1)
    return Case(grouped_matmul, lambda x, w: jnp.einsum('...hi,hio->...ho', x, w), x, w,
                (groups, n_out))  # fmt: skip


EQUATIONS = [
    'i,i->',
    'a,o->oa',
    '...i,oi->...o',
    'abhi,hio->hbao',
    'ijb,pijq->bqp',
    'hg,hk->kgh',
    'h...,h->h...',
]


def by_equation(draw):
    equation = draw(st.sampled_from(EQUATIONS))
    size = {c: draw(sides) for c in equation if c.isalpha()}
    lead = draw(leads)
    operands = equation.split('->')[0].split(',')
    shapes = [
        [n for c in part.replace('...', '.') for n in (lead if c == '.' else [size[c]])]
        for part in operands
    ]
    x, w = models.random(*shapes[0]), models.random(*shapes[1], seed=1)

    def call(x, w, b=None, **hooks):
        return einsum(equation, x, w, b, **hooks)

    def plain(x, w):
        return jnp.einsum(equation, x, w)

    return Case(call, plain, x, w, plain(x, w).shape)


CASES = {'matmul': dense, 'grouped_matmul': grouped, 'einsum': by_equation}


def marks(function, *args) -> list[tuple[Operator, list[Any], dict[str, Any]]]:
    """Run a function, and return every marked operation in it with its operands."""
    closed = jax.make_jaxpr(function)(*args)
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, args, strict=True))
    found = []
    for eqn in closed.jaxpr.eqns:
        operands = [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars]
        operator = operator_of(eqn.primitive)
        if operator is not None:
            found.append((operator, operands, eqn.params))
        given = eqn.primitive.get_bind_params(eqn.params)
        out = eqn.primitive.bind(*operands, **given)
        out = out if eqn.primitive.multiple_results else [out]
        env.update(zip(eqn.outvars, out, strict=True))
    return found


#: Nested maps, outermost first: what is mapped, input or weight.
MAPS = [(), ('x',), ('w',), ('xw',), ('x', 'w'), ('w', 'xw')]


def mapped(function, kinds):
    """A function of an input and a weight, mapped over axes in front of them."""
    for kind in reversed(kinds):
        function = jax.vmap(function, [0 if operand in kind else None for operand in 'xw'])
    return function


def stacked(value, operand, kinds):
    """As many different copies of an operand as its maps ask for."""
    sizes = [2 + n for n, kind in enumerate(kinds) if operand in kind]
    factor = np.linspace(0.5, 1.5, int(np.prod(sizes))).reshape(*sizes, *[1] * jnp.ndim(value))
    return value * factor.astype(value.dtype)

"""Every operator on random shapes, beside what it should be without any mark."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.experimental import sparse

from etrace_compiler import (
    Operator,
    conv,
    einsum,
    embedding,
    grouped_matmul,
    lora_matmul,
    matmul,
    sparse_matmul,
)
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
        bias_shape: Shape of a bias.
        bias_axes: Shape in which a bias broadcasts to the result; that of the bias by default.
    """

    call: Callable[..., Any]
    plain: Callable[..., Any]
    x: Any
    weight: Any
    bias_shape: tuple[int, ...]
    bias_axes: tuple[int, ...] | None = None

    def add(self, y, bias):
        return y + bias.reshape(self.bias_axes or bias.shape)


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


def convolution(draw):
    """In one or two dimensions, with everything that `lax.conv_general_dilated` has."""
    ndim, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    of_group, out = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    many = st.tuples(*[st.integers(1, 2)] * ndim)
    window = {'strides': draw(many), 'rhs_dilation': draw(many)}
    if draw(st.booleans()):
        window['lhs_dilation'] = draw(many)
        window['padding'] = draw(st.tuples(*[st.tuples(sides, sides)] * ndim))
    else:
        window['padding'] = draw(st.sampled_from(['SAME', 'VALID']))
    space, size = draw(st.tuples(*[st.integers(4, 5)] * ndim)), draw(many)
    lead, x, w = draw(leads), (groups * of_group, *space), (out, of_group, *size)
    last = draw(st.booleans())
    if last:
        letters = 'HW'[:ndim]
        window['dimension_numbers'] = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
        x, w = (*space, x[0]), (*size, of_group, out)

    def call(x, w, b=None, weight_fn=None, **hooks):
        return conv(x, w, b, feature_group_count=groups, kernel_fn=weight_fn, **window, **hooks)

    def plain(x, w):
        given = {'window_strides': window['strides'], **window}
        del given['strides']
        one = x.reshape((-1, *x.shape[len(lead) :]))
        y = jax.lax.conv_general_dilated(one, w, feature_group_count=groups, **given)
        return y.reshape((*lead, *y.shape[1:]))

    bias = (out,) if last else (out, *(1,) * ndim)
    return Case(call, plain, models.random(*lead, *x), models.random(*w, seed=1), (out,), bias)


def non_zeros(draw):
    shape = draw(sides), draw(sides)
    size = shape[0] * shape[1]
    dense = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    dense = np.array([True, *dense[1:]]).reshape(shape)
    make = draw(st.sampled_from([sparse.BCOO, sparse.CSR, sparse.COO, sparse.BCSR, sparse.CSC]))
    matrix = make.fromdense(jnp.asarray(dense, float))
    order = make.fromdense(jnp.asarray(np.cumsum(dense).reshape(shape) * dense, float)).data - 1

    def call(x, w, b=None, **hooks):
        return sparse_matmul(x, w, sparse_mat=matrix, bias=b, **hooks)

    def plain(x, w):
        by_row = jnp.zeros_like(w).at[order.astype(int)].set(w)
        return x @ jnp.zeros(shape, w.dtype).at[np.nonzero(dense)].set(by_row)

    x = models.random(*draw(leads), shape[0])
    return Case(call, plain, x, models.random(int(dense.sum()), seed=1), (shape[1],))


def low_rank(draw):
    """The factor that comes first is constant; of both see the tests of learners."""
    n_in, rank, n_out = draw(sides), draw(sides), draw(sides)
    B = models.random(n_in, rank, seed=4)

    def call(x, A, b=None, weight_fn=None, **hooks):
        A = A if weight_fn is None else weight_fn(A)
        return lora_matmul(x, B.astype(u.get_mantissa(A).dtype), A, alpha=0.5, bias=b, **hooks)

    x, A = models.random(*draw(leads), n_in), models.random(rank, n_out, seed=1)
    return Case(call, lambda x, A: 0.5 * x @ B @ A, x, A, (n_out,))


def look_up(draw):
    rows, width = draw(sides), draw(sides)
    indices = np.random.RandomState(0).randint(rows, size=draw(leads))

    def call(x, w, b=None, bias_fn=None, **hooks):
        y = embedding(x, w, active_rows=draw(st.sampled_from([None, 1])), **hooks)
        return y if b is None else y + bias_fn(b)

    return Case(call, lambda x, w: w[x], indices, models.random(rows, width, seed=1), (width,))


CASES = {
    'matmul': dense,
    'grouped_matmul': grouped,
    'einsum': by_equation,
    'conv': convolution,
    'sparse_matmul': non_zeros,
    'lora_matmul': low_rank,
    'embedding': look_up,
}


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
    if jnp.issubdtype(value.dtype, jnp.integer):
        copies = np.arange(int(np.prod(sizes))).reshape((*sizes, *[1] * jnp.ndim(value)))
        return jnp.maximum(value - copies, 0)
    factor = np.linspace(0.5, 1.5, int(np.prod(sizes))).reshape((*sizes, *[1] * jnp.ndim(value)))
    return value * factor.astype(value.dtype)

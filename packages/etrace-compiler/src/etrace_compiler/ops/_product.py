"""Products of an input and a weight, written as an equation of letters: the facts of all of them.

Letters of the input and of the weight: in both and in the result `h`, in both and not in the
result `i`; of the input alone `g`, of the weight alone `o`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etrace_compiler.ops._facts import Likeness, Operator
from etrace_compiler.ops._primitive import register_primitive

__all__ = ['Letters', 'letters_of', 'register_product']


class Letters(NamedTuple):
    """The letters of an equation `x,weight->y`, and what each one is."""

    x: str
    weight: str
    y: str
    shared: str
    heads: str
    summed: str
    produced: str


@lru_cache(maxsize=256)
def letters_of(equation: str) -> Letters:
    """Take an equation apart."""
    operands, y = equation.split('->')
    x, weight = operands.split(',')
    return Letters(
        x,
        weight,
        y,
        shared=''.join(c for c in x if c not in weight),
        heads=''.join(c for c in weight if c in x and c in y),
        summed=''.join(c for c in weight if c in x and c not in y),
        produced=''.join(c for c in weight if c not in x),
    )


def _arrange(value: Any, letters: str, *parts: str) -> Any:
    """Bring the axes of a value into the order of some letters, one axis for each part."""
    order = [letters.index(c) for part in parts for c in part]
    sizes = [math.prod(value.shape[letters.index(c)] for c in part) for part in parts]
    return value.transpose(order).reshape(sizes)


def _numbers(e: Letters) -> tuple:
    """The contracted axes of both operands, and the batch axes, as `dot_general` takes them."""
    return tuple(
        (tuple(map(e.x.index, part)), tuple(map(e.weight.index, part)))
        for part in (e.summed, e.heads)
    )


def _forward(x: Any, weight: Any, *, equation: str) -> Any:
    e = letters_of(equation)
    if jnp.iscomplexobj(weight) and not jnp.iscomplexobj(x):  # two real products, not four
        real, imag = (
            jax.lax.dot_general(x, part, _numbers(e)) for part in (weight.real, weight.imag)
        )
        y = jax.lax.complex(real, imag)
    else:
        y = jax.lax.dot_general(x, weight, _numbers(e))
    made = e.heads + e.shared + e.produced
    return y if made == e.y else y.transpose([made.index(c) for c in e.y])


def _x_block(x: Any, weight_shape: Sequence[int], *, equation: str) -> Any:
    e = letters_of(equation)
    return _arrange(x, e.x, e.shared, e.heads, e.summed)


def _w_block(weight: Any, *, equation: str) -> Any:
    e = letters_of(equation)
    return _arrange(weight, e.weight, e.heads, e.summed, e.produced)


def _y_block(y: Any, weight_shape: Sequence[int], *, equation: str) -> Any:
    e = letters_of(equation)
    return _arrange(y, e.y, e.shared, e.heads, e.produced)


@lru_cache(maxsize=256)
def _like(x: tuple[int, ...], weight: tuple[int, ...], *, equation: str) -> Likeness | None:
    e = letters_of(equation)
    sizes = dict(zip(e.weight + e.x, weight + x, strict=True))
    fits = tuple(map(sizes.__getitem__, e.weight)) == weight
    if not fits or e.heads + e.shared + e.produced != e.y:
        return None
    numbers = {'dimension_numbers': _numbers(e)}
    return Likeness('dot_general', numbers, tuple(map(sizes.__getitem__, e.y)))


def register_product(name: str) -> Operator:
    """Register a product under a name; its static parameter is `equation`."""
    blocks: dict[str, Any] = {'x_block': _x_block, 'w_block': _w_block, 'y_block': _y_block}
    return register_primitive(name, _forward, **blocks, like=_like)

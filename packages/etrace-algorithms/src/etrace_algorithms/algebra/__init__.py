"""Trace algebra: arrays in, arrays out.

Everything is in the block form of one relation: input `x` is `(G, H, I)`, drive `f` and
signals are `(G, H, O, S)`, a diagonal `D` is `(G, H, O, S, S)`, a full trace is `S` arrays
`(G, H, I, O)`, and a weight gradient is `(H, I, O)`. `G` shares the weight, `H` does not mix,
`S` is the number of states per position. Of an operation whose results do not all reach the
states, drives, signals and traces have the `relation.columns` that do.
"""

from etrace_algorithms.algebra.active import (
    ActiveInputs,
    scatter_inputs,
    use_inputs,
    use_inputs_in_turn,
)
from etrace_algorithms.algebra.block import (
    apply_diagonal,
    carry_drive,
    column_gradient,
    contract,
    multiply_diagonals,
    outer,
    outer_gradient,
    product_gradient,
    pull_drive,
    sum_of_products,
)
from etrace_algorithms.algebra.passes import Pattern, advance, read_and_advance
from etrace_algorithms.algebra.products import add_products, mixed_einsum
from etrace_algorithms.algebra.stored import store

__all__ = [
    'ActiveInputs',
    'Pattern',
    'add_products',
    'advance',
    'apply_diagonal',
    'carry_drive',
    'column_gradient',
    'contract',
    'mixed_einsum',
    'multiply_diagonals',
    'outer',
    'outer_gradient',
    'product_gradient',
    'pull_drive',
    'read_and_advance',
    'scatter_inputs',
    'store',
    'sum_of_products',
    'use_inputs',
    'use_inputs_in_turn',
]

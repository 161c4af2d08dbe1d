"""What a single step of `d_rtrl` does to its trace, alone: as the engine does, and in one pass.

The trace goes on, and the new trace is contracted with a signal. XLA makes two passes of that, so
that the trace is read twice and written once. In one pass it goes sample by sample, each read from
memory and written once, or by a kernel of our own. Whether a GPU needs the kernel is for `gpu.py`
to find out. It is Pallas by way of Triton; jax 0.12 warns that this way is going to be removed.

Of a relation of `G` samples, `H` blocks, `I` inputs, `O` columns and `S` states the trace is `S`
arrays `(G, H, I, O)`, `D` is `(G, H, O, S, S)`, drive and signal are `(G, H, O, S)`, the input is
`(G, H, I)`, and the gradient `(H, I, O)`.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from etrace_algorithms.algebra import (
    Pattern,
    advance,
    apply_diagonal,
    contract,
    outer_gradient,
    passes,
)

#: Inputs and columns that one program of the kernel has in its registers; powers of two.
TILE = 8, 64

Trace = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The trace of one relation."""

    batch: int
    inputs: int
    columns: int
    states: int = 1
    heads: int = 1
    dtype: str = 'float32'

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f'G={self.batch} I={self.inputs} O={self.columns} S={self.states} {self.dtype}'

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one state's array."""
        return self.batch, self.heads, self.inputs, self.columns

    @property
    def bytes(self) -> int:
        """Of the trace."""
        count = self.batch * self.heads * self.inputs * self.columns * self.states
        return count * jnp.dtype(self.dtype).itemsize


#: Those of a GRU with 64 inputs at several batches and widths; with two states; in half precision.
SIZES = [Sizes(g, 64 + n, n) for g, n in ((16, 256), (64, 256), (64, 512), (256, 512))]
SIZES += [Sizes(64, 576, 512, states=2), Sizes(64, 576, 512, dtype='bfloat16')]

#: The same on a CPU: in its cache, and beyond.
CPU_SIZES = [Sizes(g, 64 + n, n) for g, n in ((16, 256), (64, 256), (128, 256), (64, 512))]


def copied(trace: Trace, d: Any, f: Any, x: Any, signal: Any) -> tuple[Trace, Any]:
    """Read and write the trace, and nothing else: the bound."""
    sign = jnp.where(signal.ravel()[0] > 0, 1.0, -1.0)  # not known before, and no number grows
    return tuple((e * sign).astype(e.dtype) for e in trace), _little(f, x)


def _little(f: Any, x: Any) -> Any:
    """Something in the place of a gradient."""
    return x[0, :, :, None] * f[0, :, None, :, 0]


def by_xla(trace: Trace, d: Any, f: Any, x: Any, signal: Any) -> tuple[Trace, Any]:
    """Let the trace go on, and contract it, as the step engine does."""
    new = advance(trace, d, f[None], x[None])
    return new, contract(signal, new)


def updated(trace: Trace, d: Any, f: Any, x: Any, signal: Any) -> tuple[Trace, Any]:
    """Let the trace go on, and do not contract it."""
    return advance(trace, d, f[None], x[None]), _little(f, x)


def by_sample(trace: Trace, d: Any, f: Any, x: Any, signal: Any) -> tuple[Trace, Any]:
    """Do both sample by sample, as windows do: each old one is contracted, then written over."""
    pulled, pattern = apply_diagonal(d, signal), Pattern.full(len(trace))
    history, new = passes._by_sample(trace, pulled, d, f[None], x[None], pattern=pattern)
    return new, history + outer_gradient(signal, f, x)


def by_kernel(
    trace: Trace, d: Any, f: Any, x: Any, signal: Any, *, interpret: bool = False
) -> tuple[Trace, Any]:
    """Do the same in one pass: each program has a tile of all samples, one after the other."""
    states, (batch, heads, inputs, columns) = len(trace), trace[0].shape
    dtype = jnp.result_type(trace[0].dtype, d.dtype, signal.dtype)
    factors = (jnp.moveaxis(d, (-2, -1), (0, 1)), *(jnp.moveaxis(v, -1, 0) for v in (f, signal)))
    tiles = heads, pl.cdiv(inputs, TILE[0]), pl.cdiv(columns, TILE[1])
    found = pl.pallas_call(
        partial(_tile, states=states, batch=batch, dtype=dtype),
        grid=tiles,
        out_shape=[
            *(jax.ShapeDtypeStruct(e.shape, e.dtype) for e in trace),
            jax.ShapeDtypeStruct((heads, inputs, columns), dtype),
        ],
        input_output_aliases={s: s for s in range(states)},
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name='trace_pass',
    )(*trace, *factors, x)
    return tuple(found[:states]), found[states]


def _tile(*refs: Any, states: int, batch: int, dtype: Any) -> None:
    """Advance and contract one tile of one block."""
    olds, (d, f, signal, x), news, gradient = (
        refs[:states],
        refs[states : states + 4],
        refs[states + 4 : -1],
        refs[-1],
    )
    h = pl.program_id(0)
    rows = pl.program_id(1) * TILE[0] + jnp.arange(TILE[0])
    cols = pl.program_id(2) * TILE[1] + jnp.arange(TILE[1])
    has_row, has_col = rows < olds[0].shape[2], cols < olds[0].shape[3]
    has = has_row[:, None] & has_col[None, :]

    def read(ref: Any, *at: Any, where: Any) -> Any:
        return triton.load(ref.at[at], mask=where, other=0).astype(dtype)

    def sample(g: Any, total: Any) -> Any:
        old = [read(e, g, h, rows[:, None], cols[None, :], where=has) for e in olds]
        entered = read(x, g, h, rows, where=has_row)[:, None]
        for s in range(states):
            new = read(f, s, g, h, cols, where=has_col) * entered
            for r in range(states):
                new += read(d, s, r, g, h, cols, where=has_col) * old[r]
            new = new.astype(news[s].dtype)
            triton.store(news[s].at[g, h, rows[:, None], cols[None, :]], new, mask=has)
            # what is contracted is what is stored, digit by digit
            total += read(signal, s, g, h, cols, where=has_col) * new.astype(dtype)
        return total

    total = jax.lax.fori_loop(0, batch, sample, jnp.zeros(TILE, dtype))
    triton.store(gradient.at[h, rows[:, None], cols[None, :]], total, mask=has)


WAYS: dict[str, Callable[..., tuple[Trace, Any]]] = {
    'copy': copied,
    'update': updated,
    'xla': by_xla,
    'sample': by_sample,
    'kernel': by_kernel,
}


def made_up(sizes: Sizes, *steps: int) -> tuple[Trace, tuple[Any, ...]]:
    """Return a trace, and the facts of a step, or of several."""
    key = jax.random.split(jax.random.key(0), 5)
    batch, heads, inputs, columns = sizes.shape
    at = *steps, batch, heads
    trace = jax.random.normal(key[0], (sizes.states, *sizes.shape), sizes.dtype)
    d = jax.random.uniform(key[1], (*at, columns, sizes.states, sizes.states)) / sizes.states
    f = jax.random.normal(key[2], (*at, columns, sizes.states))
    x = jax.random.normal(key[3], (*at, inputs))
    signal = jax.random.normal(key[4], (*at, columns, sizes.states))
    return tuple(trace), (d, f, x, signal)


def way_of(name: str) -> Callable[..., tuple[Trace, Any]]:
    """Return one of the ways; on a CPU the kernel is interpreted."""
    interpreted = name == 'kernel' and jax.default_backend() == 'cpu'
    return partial(by_kernel, interpret=True) if interpreted else WAYS[name]


def disagreement(sizes: Sizes) -> float:
    """Return the largest difference between kernel and XLA, over the largest value."""
    trace, facts = made_up(sizes)
    ours, theirs = (jax.tree.leaves(jax.jit(way_of(n))(trace, *facts)) for n in ('kernel', 'xla'))
    pairs = [(a.astype(b.dtype), b) for a, b in zip(ours, theirs, strict=True)]
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def stopwatch(name: str, sizes: Sizes, steps: int) -> Callable[[], float]:
    """Compile a loop over steps whose trace stays where it is; each call times a step of it."""
    way = way_of(name)

    def step(held: tuple, facts: tuple) -> tuple[tuple, None]:
        trace, total = held
        trace, gradient = way(trace, *facts)
        return (trace, total + gradient), None

    run = jax.jit(lambda held, facts: jax.lax.scan(step, held, facts)[0], donate_argnums=0)
    trace, facts = made_up(sizes, steps)
    held = jax.block_until_ready(run((trace, jnp.zeros(sizes.shape[1:])), facts))

    def timed() -> float:
        nonlocal held
        start = time.perf_counter()
        held = jax.block_until_ready(run(held, facts))
        return (time.perf_counter() - start) / steps

    return timed

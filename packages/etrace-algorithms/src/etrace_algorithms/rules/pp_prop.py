r"""`pp_prop` (ES-D-RTRL): the trace as a product of two smoothed factors.

$$\epsilon^x_t = \alpha_x\,\epsilon^x_{t-1} + x_t, \qquad
\epsilon^f_t = \alpha_f\,D_t\,\epsilon^f_{t-1} + (1-\alpha_f)\,f_t, \qquad
\varepsilon_t \approx \epsilon^f_t \otimes \epsilon^x_t.$$

The smoothed side begins at zero, so that after `n` steps it holds only $1-\alpha_f^n$ of its
weight; `debias` divides by that, as Adam does for its moments. After one step the trace is then
exactly $f_1 \otimes x_1$.

Smoothing is linear in the inputs. A window of fixed parameters does not smooth them: the
cotangents $c_t$ of $\epsilon^x_t$ go back instead, $\hat c_t = c_t + \alpha_x\,\hat c_{t+1}$, and
the gradient is one product over all steps, $\sum_t \hat c_t \otimes x_t + \alpha_x\,\hat c_1
\otimes \epsilon^x_0$.

References:
    Wang et al. (2026), Model-agnostic linear-memory online learning in spiking neural
    networks, Nature Communications, doi:10.1038/s41467-026-68453-w.
"""

import numbers
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.algebra import (
    ActiveInputs,
    carry_drive,
    product_gradient,
    pull_drive,
    sum_of_products,
    use_inputs,
    use_inputs_in_turn,
)
from etrace_algorithms.batching import linearisation_axes
from etrace_algorithms.rule import Direct, Gradients, LearningRule, LearningSignal
from etrace_algorithms.rules._traces import ActiveTrace, open_slots
from etrace_algorithms.rules._windows import merge_steps, short_scan
from etrace_compiler import (
    ETraceGraph,
    HiddenParamOpRelation,
    Linearisation,
    SparseInput,
    columns_beside,
    gather_positions,
)
from etrace_compiler.errors import explain_error

__all__ = ['IODimTrace', 'as_decay']

#: Cotangents `(G, H, O)` and inputs `(G, H, I)` whose product is a gradient.
Product = tuple[Any, Any]


@dataclass(frozen=True)
class IODimTrace(LearningRule):
    """Two factors per relation, one of the size of its input and one of its result.

    Attributes:
        decay_x: Decay of the input factor, in `[0, 1)`.
        decay_f: Decay of the drive factor, in `[0, 1)`.
        debias: Divide the drive factor by `1 - decay_f**n` after `n` steps.
        trace_dtype: Dtype in which the factors are stored; that of the states by default.
        fast_solve: Solve the smoothed factors and the step itself with one product, and windows
            at once. The result is the same to rounding.
    """

    decay_x: float
    decay_f: float
    debias: bool = True
    trace_dtype: Any = None
    fast_solve: bool = True

    def init(self, graph: ETraceGraph) -> dict[str, Any]:
        x, f = {}, {}
        for r in graph.hidden_param_op_relations:
            shared, heads, fan_in, _ = r.folded_shape
            slots = shared, heads, r.active_inputs or fan_in
            x[r.key] = jnp.zeros(slots, self.trace_dtype or r.input_dtype)
            if r.active_inputs is not None:
                x[r.key] = ActiveTrace(ActiveInputs.empty(*slots), x[r.key])
            f[r.key] = tuple(
                jnp.zeros(
                    (shared, heads, len(r.columns[i]), g.num_state),
                    self.trace_dtype or jnp.result_type(r.dtype, g.dtype),
                )
                for i, g in enumerate(r.hidden_groups)
            )
        return {'x': x, 'f': f, 'steps': jnp.zeros((), jnp.int32)}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        x, f = {}, {}
        for r in lin.relations:
            held, now, close = open_slots(trace['x'][r.key], _input(lin, r), use_inputs)
            x[r.key] = close((self.decay_x * held + now).astype(held.dtype))
            f[r.key] = tuple(
                self._smooth_drive(old, lin.D_at(r, i, folded=True), drive)
                for i, (old, drive) in enumerate(
                    zip(trace['f'][r.key], _drives(lin.f[r.key], r), strict=True)
                )
            )
        return {'x': x, 'f': f, 'steps': trace['steps'] + 1}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        pulled = self._pull(trace, signal)
        return {
            r.key: product_gradient(_placed(r, pulled), _factor(trace['x'][r.key], r))
            for r in signal.graph.hidden_param_op_relations
        }

    def history(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
    ) -> Gradients:
        out = dict(self.credit(after, signal))
        for r in lin.relations:
            out[r.key] -= product_gradient(_doubled(lin, r, signal), _input(lin, r))
        return _add(out, None if bypass is None else self.credit(before, bypass))

    def gradient(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        if not self.fast_solve:
            return super().gradient(before, after, lin, signal, bypass, direct)
        pulled, out, beside = self._pull(after, signal), {}, columns_beside(lin.graph)
        for r in lin.relations:
            # the smoothed factors give the whole credit of the trace: what the step itself has
            # part in it is taken off, and given completely
            driven = np.unique(np.concatenate(r.columns))
            parts = [(_placed(r, pulled), _factor(after['x'][r.key], r), driven)]
            if len(beside[r.key]):
                own = _own_step(lin, r, signal, direct)
                parts += [(*part, beside[r.key]) for part in own]
            out[r.key] = sum_of_products(parts)
        return _add(out, None if bypass is None else self.credit(before, bypass))

    def window(
        self,
        trace: dict[str, Any],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> tuple[Gradients, Any]:
        if not self.fast_solve:
            return super().window(trace, lin, signal, bypass, direct)

        last, after = self._smooth_drives(trace['f'], lin)
        steps = trace['steps'] + 1 + jnp.arange(len(signal.values[0]), dtype=jnp.int32)
        pulled = jax.vmap(self._pull)({'f': after, 'steps': steps}, signal)
        entering = jax.tree.map(lambda _: 0, pulled)
        if bypass is not None:
            before = jax.tree.map(_shifted, trace['f'], after)
            beside = jax.vmap(self._pull)({'f': before, 'steps': steps - 1}, bypass)
            entering = jax.tree.map(lambda c: c[0], beside)
            pulled = jax.tree.map(lambda c, b: c.at[:-1].add(b[1:]), pulled, beside)
        # smoothing is linear in the inputs: the cotangents are smoothed, backwards, instead
        pulled = _smooth_back(self.decay_x, pulled)
        entering = jax.tree.map(lambda e, c: e + self.decay_x * c[0], entering, pulled)
        axes, out, x = (linearisation_axes(lin.graph), 0, 0, 0), {}, {}
        for r in lin.relations:
            smoothed, first = _placed(r, pulled), _placed(r, entering)
            parts = jax.vmap(partial(_all_of_step, r), axes)(lin, signal, direct, smoothed)
            old = trace['x'][r.key]
            out[r.key] = product_gradient(first, _factor(old, r))
            out[r.key] += sum(product_gradient(merge_steps(c), merge_steps(v)) for c, v in parts)
            held, inputs, close = open_slots(old, parts[0][1], use_inputs_in_turn)
            x[r.key] = close(self._smooth_inputs(held, inputs))
        return out, {'x': x, 'f': last, 'steps': steps[-1]}

    def _smooth_drives(self, before: dict[str, Any], lin: Linearisation) -> tuple[Any, Any]:
        """Advance the drive factors over stacked steps, all of them in one loop.

        Returns:
            The factors after all steps, and after each.
        """
        diagonals, drives = {}, {}
        for r in lin.relations:
            at = range(len(r.hidden_groups))
            diagonals[r.key] = tuple(
                jax.vmap(partial(gather_positions, relation=r, driven=i, folded=True))(
                    lin.D[r.hidden_groups[i].index]
                )
                for i in at
            )
            drives[r.key] = jax.vmap(partial(_drives, r=r))(lin.f[r.key])

        def step(old: dict[str, Any], now: tuple) -> tuple[dict[str, Any], dict[str, Any]]:
            return (new := jax.tree.map(self._smooth_drive, old, *now)), new

        return short_scan(step, before, (diagonals, drives))

    def _smooth_drive(self, old: Any, diagonal: Any, drive: Any) -> Any:
        carried = self.decay_f * carry_drive(diagonal, old)
        return (carried + (1 - self.decay_f) * drive).astype(old.dtype)

    def _smooth_inputs(self, before: Any, inputs: Any) -> Any:
        """Return the input factor after some steps, whose inputs are stacked."""
        steps = len(inputs)
        weights = (self.decay_x ** np.arange(steps, -1, -1)).astype(inputs.real.dtype)
        return (weights[0] * before + jnp.tensordot(weights[1:], inputs, 1)).astype(before.dtype)

    def _pull(self, trace: dict[str, Any], signal: LearningSignal) -> dict[str, tuple[Any, ...]]:
        """The cotangents of the input factors in the credit of a trace.

        Returns:
            By relation key, `(G, H, O')` per driven group.
        """
        scale = self._scale(trace['steps'])
        return {
            r.key: tuple(
                pull_drive(signal.at(r, i, folded=True), f * scale.astype(f.dtype))
                for i, f in enumerate(trace['f'][r.key])
            )
            for r in signal.graph.hidden_param_op_relations
        }

    def _scale(self, steps: Any) -> Any:
        if not self.debias:
            return jnp.ones(())
        weight = 1 - jnp.asarray(self.decay_f) ** steps
        return jnp.where(steps > 0, 1 / jnp.where(steps > 0, weight, 1), 1)


def _add(gradients: Gradients, more: Gradients | None) -> Gradients:
    return gradients if more is None else {key: g + more[key] for key, g in gradients.items()}


def _placed(r: HiddenParamOpRelation, parts: dict[str, tuple[Any, ...]]) -> Any:
    """Put the columns of all driven groups in their place: `(..., G, H, O)`."""
    return sum(r.place(i, part) for i, part in enumerate(parts[r.key]))


def _smooth_back(decay: float, cotangents: Any) -> Any:
    """Turn cotangents of smoothed inputs, stacked over steps, into those of the inputs."""

    def step(later: Any, here: Any) -> tuple[Any, Any]:
        total = jax.tree.map(lambda c, after: c + decay * after, here, later)
        return total, total

    start = jax.tree.map(lambda c: jnp.zeros_like(c[0]), cotangents)
    return short_scan(step, start, cotangents, reverse=True)[1]


def _shifted(first: Any, after: Any) -> Any:
    """What was before each step, of what was after each."""
    return jnp.concatenate([first[None], after[:-1]])


def _all_of_step(
    r: HiddenParamOpRelation,
    lin: Linearisation,
    signal: LearningSignal,
    direct: Direct,
    smoothed: Any,
) -> list[Product]:
    """The gradient of one step as products, given the cotangent of its input."""
    (cotangent, inputs), *more = _own_step(lin, r, signal, direct)
    return [(cotangent + smoothed, inputs), *more]


def _own_step(
    lin: Linearisation, r: HiddenParamOpRelation, signal: LearningSignal, direct: Direct
) -> list[Product]:
    """What the step itself gives, without what the smoothed factors know of it."""
    doubled = _doubled(lin, r, signal)
    if r.substeps == 1:
        return [(direct[r.key] - doubled, _input(lin, r))]
    return [(-doubled, _input(lin, r)), (direct[r.key], lin.inputs[r.key])]


def _doubled(lin: Linearisation, r: HiddenParamOpRelation, signal: LearningSignal) -> Any:
    """The cotangent that the step's own drives give in the credit of the factors."""
    return sum(
        r.place(i, pull_drive(signal.at(r, i, folded=True), f))
        for i, f in enumerate(_drives(lin.f[r.key], r))
    )


def _input(lin: Linearisation, r: HiddenParamOpRelation) -> Any:
    """One input per step: the mean over substeps, exact where it is the same at each of them."""
    if r.substeps == 1:
        return lin.inputs[r.key]
    x = lin.x[r.key]
    return x.reshape((r.substeps, -1, *x.shape[1:])).mean(0)


def _factor(held: Any, r: HiddenParamOpRelation) -> Any:
    """The input factor in the form in which a product takes it."""
    if isinstance(held, ActiveTrace):
        return SparseInput(held.table.index, held.parts.astype(r.dtype), r.folded_shape[2])
    return held.astype(r.input_dtype)


def _drives(drives: tuple[Any, ...], r: HiddenParamOpRelation) -> tuple[Any, ...]:
    """One drive per step and driven group: the sum over substeps."""
    if r.substeps == 1:
        return drives
    return tuple(f.reshape((r.substeps, -1, *f.shape[1:])).sum(0) for f in drives)


def as_decay(decay_or_rank: Any) -> float:
    """Read a decay, or turn a rank `n` into the decay `(n - 1) / (n + 1)`.

    Args:
        decay_or_rank: A float in `[0, 1)`, or an integer of at least 1.

    Raises:
        ValueError: If it is out of range.
        TypeError: If it is neither.

    Example:
        >>> as_decay(0.9), as_decay(19)
        (0.9, 0.9)
    """
    problem, error = 'is out of range', ValueError
    if isinstance(decay_or_rank, bool) or not isinstance(decay_or_rank, numbers.Real):
        problem, error = 'is neither a decay nor a rank', TypeError
    elif isinstance(decay_or_rank, numbers.Integral):
        rank = int(decay_or_rank)
        if rank >= 1:
            return (rank - 1) / (rank + 1)
    elif 0 <= float(decay_or_rank) < 1:
        return float(decay_or_rank)
    raise error(
        explain_error(
            'decay_or_rank',
            problem,
            got=repr(decay_or_rank),
            expected='a float decay with 0 <= decay < 1, or an integer rank of at least 1',
            fix='A decay of 0.9 is the same as a rank of 19.',
            code='ETA101',
        )
    )

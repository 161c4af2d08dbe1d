r"""`pp_prop` (ES-D-RTRL): the trace as a product of two smoothed factors.

$$\epsilon^x_t = \alpha_x\,\epsilon^x_{t-1} + x_t, \qquad
\epsilon^f_t = \alpha_f\,D_t\,\epsilon^f_{t-1} + (1-\alpha_f)\,f_t, \qquad
\varepsilon_t \approx \epsilon^f_t \otimes \epsilon^x_t.$$

The smoothed side begins at zero, so that after `n` steps it holds only $1-\alpha_f^n$ of its
weight; `debias` divides by that, as Adam does for its moments. After one step the trace is then
exactly $f_1 \otimes x_1$.

References:
    Wang et al. (2026), Model-agnostic linear-memory online learning in spiking neural
    networks, Nature Communications, doi:10.1038/s41467-026-68453-w.
"""

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from etrace_algorithms.algebra import (
    carry_drive,
    outer_gradient,
    product_gradient,
    pull_drive,
)
from etrace_algorithms.rule import Direct, Gradients, LearningRule, LearningSignal, scan_steps
from etrace_algorithms.rules._windows import merge_steps
from etrace_compiler import ETraceGraph, HiddenParamOpRelation, Linearisation
from etrace_compiler.errors import explain_error

__all__ = ['IODimTrace', 'as_decay']

#: Cotangents `(rows, H, O)` and inputs `(rows, H, I)` of one product, by relation key.
Rows = Mapping[str, tuple[Any, Any]]


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
            shared, heads, fan_in, fan_out = r.folded_shape
            x[r.key] = jnp.zeros((shared, heads, fan_in), self.trace_dtype or r.dtype)
            f[r.key] = tuple(
                jnp.zeros(
                    (shared, heads, fan_out, g.num_state),
                    self.trace_dtype or jnp.result_type(r.dtype, g.dtype),
                )
                for g in r.hidden_groups
            )
        return {'x': x, 'f': f, 'steps': jnp.zeros((), jnp.int32)}

    def update(self, trace: dict[str, Any], lin: Linearisation) -> dict[str, Any]:
        x, f = {}, {}
        for r in lin.relations:
            old, (now, drives) = trace['x'][r.key], _factors(lin, r)
            x[r.key] = (self.decay_x * old + now).astype(old.dtype)
            f[r.key] = tuple(
                (
                    self.decay_f * carry_drive(lin.D_at(r, i, folded=True), old)
                    + (1 - self.decay_f) * drive
                ).astype(old.dtype)
                for i, (old, drive) in enumerate(zip(trace['f'][r.key], drives, strict=True))
            )
        return {'x': x, 'f': f, 'steps': trace['steps'] + 1}

    def credit(self, trace: dict[str, Any], signal: LearningSignal) -> Gradients:
        rows = self._past(trace, signal)
        return {key: product_gradient(*both) for key, both in rows.items()}

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
            now, drives = _factors(lin, r)
            for i, drive in enumerate(drives):
                out[r.key] -= outer_gradient(signal.at(r, i, folded=True), drive, now)
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
        rows = self._rows(after, lin, signal, direct)
        out = {key: product_gradient(*both) for key, both in rows.items()}
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

        def step(before: dict, now: Linearisation, taps: tuple) -> Any:
            here, beside, straight = taps
            after = self.update(before, now)
            rows = self._rows(after, now, here, straight)
            return after, _join(rows, None if beside is None else self._past(before, beside))

        trace, rows = scan_steps(step, trace, lin, (signal, bypass, direct))
        out = {k: product_gradient(merge_steps(c), merge_steps(x)) for k, (c, x) in rows.items()}
        return out, trace

    def _rows(
        self, after: dict[str, Any], lin: Linearisation, signal: LearningSignal, direct: Direct
    ) -> Rows:
        """The gradient of one step as cotangents and inputs of one product per relation.

        The smoothed factors give the whole credit of the trace; what the step itself has part
        in it is taken off, and given completely.
        """
        rows = self._past(after, signal)
        for r in lin.relations:
            now, drives = _factors(lin, r)
            doubled = sum(pull_drive(signal.at(r, i, folded=True), f) for i, f in enumerate(drives))
            if r.substeps == 1:
                found = [(direct[r.key] - doubled, now)]
            else:
                found = [(-doubled, now), (direct[r.key], lin.x[r.key])]
            for more in found:
                rows = _join(rows, {r.key: more})
        return rows

    def _past(self, trace: dict[str, Any], signal: LearningSignal) -> Rows:
        """The credit of a trace as cotangents and inputs of one product per relation."""
        scale = self._scale(trace['steps'])
        return {
            r.key: (
                sum(
                    pull_drive(signal.at(r, i, folded=True), f * scale.astype(f.dtype))
                    for i, f in enumerate(trace['f'][r.key])
                ),
                trace['x'][r.key].astype(r.dtype),
            )
            for r in signal.graph.hidden_param_op_relations
        }

    def _scale(self, steps: Any) -> Any:
        if not self.debias:
            return jnp.ones(())
        weight = 1 - jnp.asarray(self.decay_f) ** steps
        return jnp.where(steps > 0, 1 / jnp.where(steps > 0, weight, 1), 1)


def _join(rows: Rows, more: Rows | None) -> Rows:
    """Put rows of the same products below each other."""
    joined = dict(rows)
    for key, (cotangent, x) in (more or {}).items():
        above = rows[key]
        joined[key] = jnp.concatenate([above[0], cotangent]), jnp.concatenate([above[1], x])
    return joined


def _add(gradients: Gradients, more: Gradients | None) -> Gradients:
    return gradients if more is None else {key: g + more[key] for key, g in gradients.items()}


def _factors(lin: Linearisation, r: HiddenParamOpRelation) -> tuple[Any, tuple[Any, ...]]:
    """One input and one drive per step: over substeps the drives add up, inputs are averaged.

    That is exact where the input is the same at every substep.
    """
    if r.substeps == 1:
        return lin.x[r.key], lin.f[r.key]
    x = lin.x[r.key].reshape((r.substeps, -1, *lin.x[r.key].shape[1:])).mean(0)
    return x, tuple(f.reshape((r.substeps, -1, *f.shape[1:])).sum(0) for f in lin.f[r.key])


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

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
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from etrace_algorithms.algebra import (
    carry_drive,
    outer_gradient,
    product_gradient,
    pull_drive,
)
from etrace_algorithms.batching import linearisation_axes
from etrace_algorithms.rule import Direct, Gradients, LearningRule, LearningSignal, scan_steps
from etrace_algorithms.rules._windows import merge_steps
from etrace_compiler import ETraceGraph, HiddenParamOpRelation, Linearisation
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
            x[r.key] = jnp.zeros((shared, heads, fan_in), self.trace_dtype or r.dtype)
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
        parts = self._past(trace, signal)
        return {key: product_gradient(*part) for key, part in parts.items()}

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
                doubled = outer_gradient(signal.at(r, i, folded=True), drive, now)
                out[r.key] -= r.place(i, doubled)
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
        out = {}
        for key, parts in self._products(after, lin, signal, direct).items():
            # rows of one product: there are few in a step
            cotangents, inputs = zip(*parts, strict=True)
            out[key] = product_gradient(jnp.concatenate(cotangents), jnp.concatenate(inputs))
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

        def step(before: dict, now: Linearisation, _: None) -> tuple[dict, dict]:
            after = self.update(before, now)
            return after, after

        last, after = scan_steps(step, trace, lin)
        axes = (0, linearisation_axes(lin.graph), 0, 0)
        products = jax.vmap(self._products, axes)(after, lin, signal, direct)
        if bypass is not None:
            before = jax.tree.map(lambda e, es: jnp.concatenate([e[None], es[:-1]]), trace, after)
            for key, part in jax.vmap(self._past)(before, bypass).items():
                products[key].append(part)
        out = {
            key: sum(product_gradient(merge_steps(c), merge_steps(x)) for c, x in parts)
            for key, parts in products.items()
        }
        return out, last

    def _products(
        self, after: dict[str, Any], lin: Linearisation, signal: LearningSignal, direct: Direct
    ) -> dict[str, list[Product]]:
        """The gradient of one step as products, by relation key.

        The smoothed factors give the whole credit of the trace; what the step itself has part
        in it is taken off, and given completely.
        """
        found = {key: [part] for key, part in self._past(after, signal).items()}
        for r in lin.relations:
            now, drives = _factors(lin, r)
            doubled = sum(
                r.place(i, pull_drive(signal.at(r, i, folded=True), f))
                for i, f in enumerate(drives)
            )
            if r.substeps == 1:
                found[r.key].append((direct[r.key] - doubled, now))
            else:
                found[r.key] += [(-doubled, now), (direct[r.key], lin.x[r.key])]
        return found

    def _past(self, trace: dict[str, Any], signal: LearningSignal) -> dict[str, Product]:
        """The credit of a trace as one product per relation key."""
        scale = self._scale(trace['steps'])
        return {
            r.key: (
                sum(
                    r.place(i, pull_drive(signal.at(r, i, folded=True), f * scale.astype(f.dtype)))
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

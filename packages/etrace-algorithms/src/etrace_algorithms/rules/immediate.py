"""`immediate`: no trace, one-step gradients; the control that every comparison needs."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from etrace_algorithms.algebra import product_gradient
from etrace_algorithms.rule import Direct, Exactness, Gradients, LearningRule, LearningSignal
from etrace_algorithms.rules._windows import merge_steps
from etrace_compiler import ETraceGraph, Linearisation

__all__ = ['ImmediateDerivatives']


@dataclass(frozen=True)
class ImmediateDerivatives(LearningRule):
    """Give no credit to earlier steps."""

    @property
    def exactness(self) -> Exactness:
        return Exactness.IMMEDIATE

    def init(self, graph: ETraceGraph) -> tuple[()]:
        return ()

    def update(self, trace: tuple[()], lin: Linearisation) -> tuple[()]:
        return trace

    def credit(self, trace: tuple[()], signal: LearningSignal) -> Gradients:
        return {
            r.key: jnp.zeros(r.block_shape[1:], r.dtype)
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
        return self.credit(before, signal)

    def gradient(
        self,
        before: Any,
        after: Any,
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> Gradients:
        return {r.key: product_gradient(direct[r.key], lin.inputs[r.key]) for r in lin.relations}

    def window(
        self,
        trace: tuple[()],
        lin: Linearisation,
        signal: LearningSignal,
        bypass: LearningSignal | None,
        direct: Direct,
    ) -> tuple[Gradients, tuple[()]]:
        gradients = {
            r.key: product_gradient(merge_steps(direct[r.key]), merge_steps(lin.inputs[r.key]))
            for r in lin.relations
        }
        return gradients, trace

"""`immediate`: no trace, one-step gradients; the control that every comparison needs."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from etrace_algorithms.rule import Exactness, Gradients, LearningRule, LearningSignal
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

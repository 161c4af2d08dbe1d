"""How far the gradient of a learner is from that of backpropagation, on three models."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.testing.models import (
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
    surrogate_spike,
)
from etrace_algorithms.testing.oracles import gradient_alignment
from etrace_algorithms.testing.probe import Probe
from etrace_compiler import matmul

__all__ = ['Comparison', 'compare_with_bptt']

STEPS, BATCH, SIZES = 20, 16, (3, 16, 2)


class _RecurrentSpikes(SpikingChain):
    """Adaptive neurons with synapses, which spike at each other."""

    hidden = ('g', 'v', 'a', 'z')
    z: Any

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.r = self.weight(sizes[1], sizes[1], scale=0.8)

    def update(self, x: Any) -> Any:
        """Do one step."""
        self.g.value = 0.7 * self.g.value + matmul(self.z.value, self.r.value)
        y = super().update(x)
        self.z.value = surrogate_spike(self.v.value - 0.4)
        return y


MODELS = {'RNN': PlainRNN, 'LSTM': RecurrentLSTM, 'recurrent spiking': _RecurrentSpikes}


@dataclass(frozen=True)
class Comparison:
    """One learner on one model, beside backpropagation.

    Attributes:
        model: Name of the model.
        cosine: Cosine of the angle between the two gradients, over parameters that drive states.
        ratio: Norm of the learner's gradient over that of backpropagation's.
        immediate: The cosine without any trace.
    """

    model: str
    cosine: float
    ratio: float
    immediate: float


def compare_with_bptt(learner: Any, **options: Any) -> Iterator[Comparison]:
    """Compare a learner with backpropagation on a recurrent network, an LSTM and a spiking one.

    Sequences have 20 steps, models 16 units and batches 16 samples, with random weights; every
    sample has a random key of its own.

    Args:
        learner: The name of an installed learner, a learning rule, or a class of either.
        **options: Options of the learner.

    Example:
        >>> [found.model for found in compare_with_bptt('immediate')]
        ['RNN', 'LSTM', 'recurrent spiking']
    """
    for model in MODELS:
        probe, exact, control = _reference(model)
        found = probe.online(probe.vmapped(learner, **options))
        cosine, ratio = gradient_alignment({path: found[path] for path in exact}, exact)
        yield Comparison(model, cosine, ratio, control)


@cache
def _reference(model: str) -> tuple[Probe, Any, float]:
    """The probe of a model, its gradient by backpropagation, and the cosine of `immediate`."""
    xs = np.random.default_rng(1).normal(size=(STEPS, BATCH, SIZES[0]))
    probe = Probe(MODELS[model](*SIZES), jnp.asarray(xs, jnp.float32), dtype=jnp.float32)
    relations = probe.learner.graph.hidden_param_op_relations
    driving = {path for r in relations for path in r.trainable_paths}
    exact = {p: jax.device_get(g) for p, g in probe.backpropagated().items() if p in driving}
    control = probe.online(probe.another('immediate'))
    return probe, exact, gradient_alignment({p: control[p] for p in exact}, exact)[0]

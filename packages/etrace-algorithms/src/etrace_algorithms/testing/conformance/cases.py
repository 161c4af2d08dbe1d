"""The models that a learner is tried on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import brainstate
import jax.numpy as jnp
import numpy as np

from etrace_algorithms.testing.models import (
    DiagonalLSTM,
    ElementwiseDecay,
    LeakyIntegrator,
    PlainRNN,
    RecurrentLSTM,
    SpikingChain,
)
from etrace_algorithms.testing.probe import Probe
from etrace_compiler import conv, einsum, embedding, grouped_matmul, lora_matmul, matmul

__all__ = ['BATCH', 'CASES', 'STEPS', 'Case', 'probe_of']

STEPS, BATCH, SIZE = 5, 2, 3


@dataclass(frozen=True)
class Case:
    """A model that learners are tried on.

    Attributes:
        name: Its name in reports.
        make: Makes the model; it takes inputs of `SIZE` numbers.
        diagonal: Whether its recurrence maps every position to itself.
        quick: Whether the quick level has it.
    """

    name: str
    make: Callable[[], brainstate.nn.Module]
    diagonal: bool
    quick: bool = False


class TwoLayers(PlainRNN):
    """Two recurrent layers, of which the second has a weight that is not marked."""

    hidden = ('h', 'g')
    g: Any

    def __init__(self):
        super().__init__(SIZE, 4, 2)
        self.u = self.weight(4, 4)
        self.v = self.weight(4, 4)

    def update(self, x: Any) -> Any:
        """Do one step."""
        super().update(x)
        y = self.h.value @ self.u.value + matmul(self.g.value, self.v.value)
        self.g.value = 0.4 * self.g.value + jnp.tanh(y)
        return self.read(self.g.value)


class EveryOperator(LeakyIntegrator):
    """A leaky state that all kinds of operations drive."""

    def __init__(self):
        super().__init__(SIZE, 4, 2)
        self.blocks = self.weight(2, 2, 2)
        self.kernel = self.weight(2, 1, 1)
        self.low, self.high = self.weight(SIZE, 2), self.weight(2, 4)
        self.rows = self.weight(5, 4)
        self.heads = self.weight(SIZE, 2, 2)

    def update(self, x: Any) -> Any:
        """Do one step."""
        lead = x.shape[:-1]
        four = jnp.concatenate([x, x[..., :1] ** 2], axis=-1)
        drive = grouped_matmul(four.reshape((*lead, 2, 2)), self.blocks.value).reshape(four.shape)
        flat = four.reshape((-1, 4, 1))
        layout = ('NHC', 'HIO', 'NHC')
        drive += conv(
            flat, self.kernel.value, strides=(1,), padding='SAME', dimension_numbers=layout
        ).reshape(four.shape)
        drive += lora_matmul(x, self.low.value, self.high.value, alpha=0.5)
        drive += embedding((x[..., 0] > 0).astype(int) + 2, self.rows.value)
        drive += einsum('...i,iho->...ho', x, self.heads.value).reshape(four.shape)
        super().update(x)
        self.h.value += jnp.tanh(drive)
        return self.read(self.h.value)


CASES = (
    Case('leaky integrator', LeakyIntegrator, True, quick=True),
    Case('spiking chain', SpikingChain, True, quick=True),
    Case('plain RNN', PlainRNN, False, quick=True),
    Case('trained decay', ElementwiseDecay, True),
    Case('diagonal LSTM', DiagonalLSTM, True),
    Case('every operator', EveryOperator, True),
    Case('LSTM', RecurrentLSTM, False),
    Case('two layers', TwoLayers, False),
)


@cache
def probe_of(name: str, dtype: Any = None) -> Probe:
    """Return the probe of a case, whose gradients of backpropagation all learners share."""
    case = next(c for c in CASES if c.name == name)
    xs = np.random.default_rng(1).normal(size=(STEPS, BATCH, SIZE)) * 1.5
    return Probe(case.make(), jnp.asarray(xs), dtype=dtype)

"""The models that are measured, made of the layers of either implementation."""

import dataclasses
import importlib
from typing import Any

import brainstate
import brainunit as u
import jax.numpy as jnp
import numpy as np

CELLS = {'gru': 'GRUCell', 'lstm': 'LSTMCell', 'rnn': 'ValinaRNNCell'}
NEURONS = ('lif', 'lif-expon', 'alif-expon')
STATES = {'lru': 1, 'rnn': 1, 'gru': 1, 'lstm': 2, 'lif': 1, 'lif-expon': 2, 'alif-expon': 3}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its sizes: `depth` layers of `hidden` units on `inputs`, and a readout."""

    model: str = 'gru'
    batch: int = 16
    hidden: int = 256
    steps: int = 64
    depth: int = 1
    inputs: int = 64
    outputs: int = 10

    @property
    def label(self) -> str:
        """A name such as `gru B=16 N=256 T=64`."""
        layers = f' x{self.depth}' if self.depth > 1 else ''
        return f'{self.model}{layers} B={self.batch} N={self.hidden} T={self.steps}'


class Family:
    """One implementation: what compiles learners, the layers, and the spiking layers."""

    def __init__(self, name: str):
        self.name = name
        self.ours = name == 'etrace'
        self.algorithms = importlib.import_module('etrace_algorithms' if self.ours else name)
        self.compiler = importlib.import_module('etrace_compiler' if self.ours else name)
        self.nn = importlib.import_module('etrace_nn' if self.ours else f'{name}.nn')
        self.spiking = self.nn if self.ours else importlib.import_module('brainpy.state')

    def build(self, case: Case) -> brainstate.nn.Module:
        """Make the model of a case, with weights of the same distribution in both families."""
        brainstate.random.seed(0)
        if case.model == 'lru':
            return LinearUnits(self, case)
        return (Spiking if case.model in NEURONS else Rates)(self, case)


def normal(shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Draw a weight whose products have about the size of its inputs."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    values = np.random.default_rng(sum(shape)).normal(size=shape) / np.sqrt(shape[0])
    return jnp.asarray(values, jnp.float32)


class Rates(brainstate.nn.Module):
    """Recurrent cells, one on top of the other, and a readout."""

    def __init__(self, family: Family, case: Case):
        super().__init__()
        cell = getattr(family.nn, CELLS[case.model])
        # by default this one has no bound: with `relu`, states and gradients grow over the steps
        options = {'activation': 'tanh'} if case.model == 'rnn' else {}
        sizes = [case.inputs, *[case.hidden] * (case.depth - 1)]
        self.cells = [cell(size, case.hidden, w_init=normal, **options) for size in sizes]
        self.out = family.nn.Linear(case.hidden, case.outputs, w_init=normal)

    def update(self, x: Any) -> Any:
        for cell in self.cells:
            x = cell(x)
        return self.out(x)


class LinearUnits(brainstate.nn.Module):
    """Complex linear recurrent units, one on top of the other, and a readout; ours alone."""

    def __init__(self, family: Family, case: Case):
        super().__init__()
        self.cells = [family.nn.LRUCell(case.inputs, case.hidden) for _ in range(case.depth)]
        self.out = family.nn.Linear(case.inputs, case.outputs, w_init=normal)

    def update(self, x: Any) -> Any:
        for cell in self.cells:
            x = cell(x)
        return self.out(x)


class Spiking(brainstate.nn.Module):
    """Integrate-and-fire neurons, driven by inputs and their own spikes, and a readout."""

    def __init__(self, family: Family, case: Case):
        super().__init__()
        if case.depth != 1:
            raise ValueError(f'depth: got {case.depth}; expected 1 for spiking models.')
        adaptive = case.model == 'alif-expon'
        neuron = family.spiking.ALIF if adaptive else family.spiking.LIF
        self.weight = family.nn.Linear(case.inputs + case.hidden, case.hidden, w_init=normal)
        self.synapse = None
        if case.model != 'lif':
            start = {'g_init' if family.ours else 'g_initializer': _no_current}
            self.synapse = family.spiking.Expon(case.hidden, tau=10 * u.ms, **start)
        self.neuron = neuron(case.hidden, tau=20 * u.ms)
        self.out = family.nn.Linear(case.hidden, case.outputs, w_init=normal)
        # without a synapse that adds up its input, more is needed for the first spikes
        self.gain = (3 if self.synapse else 20) * u.mA

    def update(self, x: Any) -> Any:
        joined = jnp.concatenate([x, self.neuron.get_spike()], axis=-1)
        current = self.weight(joined) * self.gain
        if self.synapse is not None:
            current = self.synapse(current)
        return self.out(self.neuron(current))


def _no_current(shape: Any, *args: Any, **kwargs: Any) -> Any:
    return jnp.zeros(shape, jnp.float32) * u.mA


def make_data(case: Case) -> tuple[Any, Any]:
    """Draw inputs `(T, B, inputs)` and targets `(T, B, outputs)`."""
    rng = np.random.default_rng(0)
    shapes = [(case.steps, case.batch, size) for size in (case.inputs, case.outputs)]
    xs, ys = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return xs, ys

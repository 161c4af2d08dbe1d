"""Time the compilation of models with one of two implementations, in a process of its own.

`python _compile_worker.py etrace SIZES gru-16 lif-1 ...` prints one JSON object: by case, the
processor time of the first compilation of such a model in this process, then of others. It runs
in an environment that has either our packages or `braintrace`, and imports no more than that.
"""

import gc
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
warnings.simplefilter('ignore')

import brainstate  # noqa: E402
import brainunit as u  # noqa: E402
import jax.numpy as jnp  # noqa: E402

CELLS = {'gru': 'GRUCell', 'lstm': 'LSTMCell', 'rnn': 'ValinaRNNCell'}
AGAIN = 3


def zeros(shape: Any, *args: Any, **kwargs: Any) -> Any:
    """Make weights whose values do not matter, without drawing them."""
    return jnp.zeros(shape)


class Stack(brainstate.nn.Module):
    """Recurrent cells, one on top of the other, and a readout."""

    def __init__(self, nn: Any, cell: str, depth: int, inputs: int, width: int):
        super().__init__()
        make = getattr(nn, CELLS[cell])
        sizes = [inputs if i == 0 else width for i in range(depth)]
        self.cells = [make(size, width, w_init=zeros) for size in sizes]
        self.out = nn.Linear(width, 10, w_init=zeros)

    def update(self, x: Any) -> Any:
        for cell in self.cells:
            x = cell(x)
        return self.out(x)


class Spiking(brainstate.nn.Module):
    """Leaky integrate-and-fire layers with recurrent weights, and a readout."""

    def __init__(self, nn: Any, neuron: Callable, depth: int, inputs: int, width: int):
        super().__init__()
        sizes = [inputs if i == 0 else width for i in range(depth)]
        self.weights = [nn.Linear(size + width, width, w_init=zeros) for size in sizes]
        self.neurons = [neuron(width, tau=20 * u.ms) for _ in sizes]
        self.out = nn.Linear(width, 10, w_init=zeros)

    def update(self, x: Any) -> Any:
        for weight, neuron in zip(self.weights, self.neurons, strict=True):
            joined = jnp.concatenate([x, neuron.get_spike()], axis=-1)
            x = neuron(weight(joined) * u.mA)
        return self.out(x)


class Image(brainstate.nn.Module):
    """A state per pixel and channel, driven along the channels: the conv-like case."""

    shape = (128, 64, 64, 32)

    def __init__(self, compiler: Any, channels: int):
        super().__init__()
        self.compiler = compiler
        self.w = brainstate.ParamState(jnp.ones((channels, self.shape[-1])))
        self.decay = brainstate.ParamState(jnp.ones(self.shape[-1]))

    def init_state(self, batch_size: int) -> None:
        self.h = brainstate.HiddenState(jnp.zeros((batch_size, *self.shape[1:])))

    def update(self, x: Any) -> Any:
        decay = self.compiler.element_wise(self.decay.value)
        drive = self.compiler.matmul(x, self.w.value)
        self.h.value = decay * self.h.value + jnp.tanh(drive)
        return self.h.value


def implementation(name: str) -> tuple[Any, Any, Any]:
    """Return the compiler, the layers, and the module that has `LIF`."""
    if name == 'etrace':
        nn = importlib.import_module('etrace_nn')
        return importlib.import_module('etrace_compiler'), nn, nn
    spiking = importlib.import_module('brainpy.state')
    return importlib.import_module(name), importlib.import_module(f'{name}.nn'), spiking


def build(name: str, case: str, batch: int, inputs: int, width: int) -> tuple[Any, Any]:
    """Return a fresh model with its states, and the inputs of one step."""
    compiler, nn, spiking = implementation(name)
    kind, _, depth = case.partition('-')
    if kind == 'image':
        model, batch = Image(compiler, 3), Image.shape[0]
        x = jnp.zeros((*Image.shape[:-1], 3))
    elif kind == 'lif':
        model = Spiking(nn, spiking.LIF, int(depth), inputs, width)
        x = jnp.zeros((batch, inputs))
    else:
        model = Stack(nn, kind, int(depth), inputs, width)
        x = jnp.zeros((batch, inputs))
    brainstate.nn.init_all_states(model, batch)
    return model, x


def seconds(name: str, case: str, sizes: dict[str, int]) -> float:
    """Return the processor time that one compilation of a fresh model takes."""
    model, x = build(name, case, **sizes)
    run = implementation(name)[0].compile_etrace_graph
    gc.collect()  # or what came before would be cleared away inside
    # of this process alone: on a machine that others use too, the clock on the wall says little
    start = time.process_time()
    graph = run(model, x)
    taken = time.process_time() - start
    if not graph.hidden_param_op_relations:
        raise SystemExit(f'{name} found no relation in {case}')
    return taken


def main(name: str, sizes: str, *cases: str) -> None:
    """Time every case; a small model first, which pays for imports and tables."""
    with brainstate.environ.context(dt=1.0 * u.ms):
        seconds(name, 'rnn-1', {'batch': 2, 'inputs': 3, 'width': 4})
        shape = json.loads(sizes)
        found = {case: [seconds(name, case, shape) for _ in range(1 + AGAIN)] for case in cases}
    print(json.dumps(found))


if __name__ == '__main__':
    main(*sys.argv[1:])

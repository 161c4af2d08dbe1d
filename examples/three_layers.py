"""Draw a network of three recurrent layers: `python examples/three_layers.py > net.svg`."""

import brainstate
import jax.numpy as jnp

import etrace_nn
from etrace_compiler import compile_etrace_graph, draw


class Net(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn1 = etrace_nn.GRUCell(10, 64)
        self.rnn2 = etrace_nn.GRUCell(64, 64)
        self.rnn3 = etrace_nn.GRUCell(64, 32)
        self.readout = etrace_nn.Linear(32, 4)

    def update(self, x):
        x = self.rnn1(x)
        x = self.rnn2(x)
        x = self.rnn3(x)
        return self.readout(x)


def picture():
    net = Net()
    brainstate.nn.init_all_states(net, batch_size=16)
    return draw(compile_etrace_graph(net, jnp.zeros((16, 10))))


if __name__ == '__main__':
    print(picture())

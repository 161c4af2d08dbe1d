"""What the examples of the diagnostics have in common."""

import brainstate
import jax.numpy as jnp


class Cell(brainstate.nn.Module):
    """The parameters in `shapes` and a hidden state `h`; an example adds a step."""

    shapes = {'W': (3, 4)}
    input_shape = (3,)

    def __init__(self):
        super().__init__()
        random = brainstate.random.RandomState(0)
        for name, shape in self.shapes.items():
            setattr(self, name, brainstate.ParamState(random.randn(*shape)))

    def init_state(self, batch_size=None):
        self.h = brainstate.HiddenState(jnp.zeros(4))

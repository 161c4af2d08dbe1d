"""Train a small network with the learner that is named on the command line.

The `wheels` session runs it with a plugin that was generated, built and installed a moment ago.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp

import etrace_algorithms
from etrace_algorithms.testing import LeakyIntegrator


def main(name):
    """Follow the online gradient of one sequence ten times."""
    xs = brainstate.random.RandomState(0).randn(10, 4, 3)
    learner = etrace_algorithms.compile(LeakyIntegrator(), name, xs[0], batch_size=4)

    @brainstate.transform.jit
    def train():
        learner.reset_state(4)
        gradients, loss = learner.etrace_grad(
            xs, step_fn=lambda x: jnp.mean((learner(x) - 1) ** 2), return_value=True
        )
        for path, gradient in gradients.items():
            state = learner.param_states[path]
            state.value = jax.tree.map(lambda w, g: w - 0.01 * g, state.value, gradient)
        return loss

    losses = [float(jnp.mean(train())) for _ in range(10)]
    assert losses[-1] < losses[0] / 2, losses
    print(f'{name}: {losses[0]:.3f} -> {losses[-1]:.3f}')


if __name__ == '__main__':
    main(sys.argv[1])

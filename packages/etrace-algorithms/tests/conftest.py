"""Every test of this package runs in float64, unless it says otherwise."""

import brainstate
import jax
import pytest


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    with brainstate.environ.context(precision=64):
        brainstate.random.seed(0)
        yield
    jax.config.update('jax_enable_x64', before)

import brainstate
import brainunit as u
import jax
import pytest


@pytest.fixture
def x64():
    """Compute in double precision."""
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    with brainstate.environ.context(precision=64):
        yield
    jax.config.update('jax_enable_x64', before)


@pytest.fixture
def one_ms():
    """Let a step of time be a millisecond."""
    with brainstate.environ.context(dt=1.0 * u.ms):
        yield


@pytest.fixture
def random():
    """Numbers to feed a layer with."""
    return lambda *shape: brainstate.random.RandomState(1).normal(size=shape)

"""Double precision for every test of the compiler."""

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision():
    """Compute in float64, and put the setting back."""
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', before)

"""What all tests share: the same random numbers in every process and every run."""

import gc
import os
from pathlib import Path

import brainstate
import jax
import pytest
from hypothesis import HealthCheck, settings

# The first example of a test compiles, so no example has a deadline; models are slow to draw, and
# those whose values are not finite are passed over.
COMMON = {
    'deadline': None,
    'print_blob': True,
    'suppress_health_check': [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
settings.register_profile('ci', derandomize=True, **COMMON)
# two hundred times the examples, where a test says how many it wants in proportion
settings.register_profile('nightly', derandomize=False, max_examples=20_000, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))


@pytest.fixture(autouse=True)
def same_seed():
    """Seed brainstate, whose default seed differs from process to process."""
    brainstate.random.seed(0)


@pytest.fixture(autouse=True, scope='module')
def fewer_programs():
    """Forget compiled programs before there are too many of them.

    Each takes memory maps, of which a process has 65 530 on Linux; XLA dies with the last.
    """
    yield
    maps = Path('/proc/self/maps')
    if maps.exists() and maps.read_text().count('\n') > 30_000:
        jax.clear_caches()
        gc.collect()

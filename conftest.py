"""What all tests share: the same random numbers in every process and every run."""

import brainstate
import pytest
from hypothesis import settings

# The first example of a test compiles, so no example has a deadline.
settings.register_profile('repository', deadline=None, derandomize=True)
settings.load_profile('repository')


@pytest.fixture(autouse=True)
def same_seed():
    """Seed brainstate, whose default seed differs from process to process."""
    brainstate.random.seed(0)

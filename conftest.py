"""What all tests share: the same random numbers in every process and every run."""

import gc
import os
import zlib
from collections import defaultdict
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
settings.register_profile('few', derandomize=True, max_examples=25, **COMMON)
# two hundred times the examples, where a test says how many it wants in proportion
settings.register_profile('nightly', derandomize=False, max_examples=20_000, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))


def pytest_addoption(parser):
    """Add `--one-case-in`, for a second stack: every test, and fewer cases of each."""
    parser.addoption(
        '--one-case-in',
        type=int,
        default=1,
        metavar='N',
        help='run one case in N of each test, and at least one',
    )


def pytest_collection_modifyitems(config, items):
    """Leave out cases: which, is the same in every process and on every machine."""
    every = config.getoption('--one-case-in')
    if every < 2:
        return
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition('[')[0]].append(item)
    kept = set()
    for cases in tests.values():
        drawn = [case for case in cases if zlib.crc32(case.nodeid.encode()) % every == 0]
        kept.update(drawn or cases[:1])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


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

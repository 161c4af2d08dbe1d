"""The pytest plugin of the conformance kit: one option, and nothing imported before it is used.

It is found through the entry-point group `pytest11`, and is a package of its own so that a test
run that has nothing to do with learners does not import JAX.
"""

from typing import Any

__all__ = ['pytest_addoption']


def pytest_addoption(parser: Any) -> None:
    """Add `--etrace-level`, which overrides the level of `conformance_tests`."""
    parser.getgroup('etrace', 'online learners').addoption(
        '--etrace-level',
        choices=('quick', 'full'),
        default=None,
        help='how much the conformance kit of etrace_algorithms tries',
    )

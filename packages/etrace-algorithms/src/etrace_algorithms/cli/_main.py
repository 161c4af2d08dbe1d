"""Arguments, dispatch and exit codes of `etrace`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from etrace_algorithms.cli import _inspect, _list
from etrace_algorithms.plugins.records import OWN_DISTRIBUTION

__all__ = ['main']


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; by default that of this process.

    Returns:
        The exit code: 0; 1 if `list --strict` found problems, or `inspect` a model that does not
        compile or has a weight that cannot learn; 2 for a wrong call.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`etrace list | head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='etrace', description='Online learners for recurrent and spiking networks.'
    )
    parser.add_argument('--version', action='version', version=f'etrace {_version()}')
    commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')
    _list.add_to(commands)
    _inspect.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version(OWN_DISTRIBUTION)
    except PackageNotFoundError:
        return '(not installed)'

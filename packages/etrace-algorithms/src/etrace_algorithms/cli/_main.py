"""Arguments, dispatch and exit codes of `etrace`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from etrace_algorithms.cli import _check, _cite, _info, _inspect, _list, _new_plugin
from etrace_algorithms.cli._usage import UsageError
from etrace_algorithms.plugins.records import OWN_DISTRIBUTION

__all__ = ['main']


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; by default that of this process.

    Returns:
        The exit code: 0 if all is well; 1 if the answer is bad, such as a plugin with a problem
        in strict mode, a model that does not compile, or a learner that does not keep its
        promises; 2 for a wrong call.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='replace')  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = options.run(options)
        sys.stdout.flush()
    except UsageError as error:
        print(f'etrace {options.command}: {error}', file=sys.stderr)
        return 2
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
    commands = parser.add_subparsers(
        title='commands', required=True, metavar='COMMAND', dest='command'
    )
    for command in (_list, _info, _inspect, _check, _new_plugin, _cite):
        command.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version(OWN_DISTRIBUTION)
    except PackageNotFoundError:
        return '(not installed)'

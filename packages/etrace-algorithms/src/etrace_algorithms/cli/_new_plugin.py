"""`etrace new-plugin`: a learning rule as a package, ready to be tested, built and published."""

import argparse
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from etrace_algorithms.cli._scaffold import Names, write
from etrace_algorithms.cli._usage import UsageError, installed
from etrace_compiler.errors import explain_error

__all__ = ['add_to']


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'new-plugin',
        help='write a package with a learning rule of your own',
        description='Write a complete package: a learning rule, its announcement, tests, README, '
        'licence, and a workflow that tests and publishes it. Exits with 2 if the name is taken '
        'or invalid, or the folder exists; then nothing is written.',
    )
    parser.add_argument('name', metavar='NAME', help='name of the learner, such as kf-rtrl')
    parser.add_argument(
        '--package', metavar='DISTRIBUTION', help='name of the package (etrace-NAME)'
    )
    parser.add_argument(
        '--directory',
        type=Path,
        default=Path('.'),
        metavar='FOLDER',
        help='where to put the folder of the package (here)',
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    names = Names.of(options.name, options.package)
    if taken := _taken(names):
        raise UsageError(
            explain_error(
                options.name,
                'is taken',
                got=taken,
                expected='a name that is free',
                fix='Choose another name, or uninstall what has it.',
                code='ETA522',
            )
        )
    files = write(names, options.directory)
    print(f'Written into {options.directory / names.package}:')
    print('\n'.join(f'    {file}' for file in files))
    print('\nNext:')
    print(f'    cd {options.directory / names.package}')
    print("    pip install -e '.[test]'")
    print(f'    etrace check {names.learner}')
    print('    pytest')
    return 0


def _taken(names: Names) -> str | None:
    """Say who has one of the names here, if anybody does."""
    claimants = installed().registry.claims.get(names.learner)
    if claimants:
        return f'a learner of {claimants[0].origin}'
    try:
        return f'an installed distribution, {importlib.metadata.metadata(names.package)["Name"]}'
    except importlib.metadata.PackageNotFoundError:
        pass
    if importlib.util.find_spec(names.module):
        return f'a module {names.module} that Python finds'
    return None

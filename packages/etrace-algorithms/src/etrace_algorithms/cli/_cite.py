"""`etrace cite`: the BibTeX of learners."""

import argparse
import re
from typing import Any

from etrace_algorithms.cli._usage import find_learner
from etrace_algorithms.plugins.citation import cite

__all__ = ['add_to']

_BETWEEN = re.compile(r'\n\s*(?=@)')


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'cite',
        help='write the BibTeX entries of learners',
        description='Write the BibTeX entries of learners, each entry once. Exits with 2 if there '
        'is no such learner.',
    )
    parser.add_argument('names', metavar='NAME', nargs='+', help='a learner')
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    specs = [find_learner(name)[0] for name in options.names]
    entries = [entry for spec in specs for entry in _BETWEEN.split(cite(spec))]
    print('\n\n'.join(dict.fromkeys(entries)))
    return 0

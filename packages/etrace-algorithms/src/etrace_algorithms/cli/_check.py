"""`etrace check`: the report card of one learner, from the conformance kit."""

import argparse
import ast
import json
import sys
import warnings
from typing import Any

from etrace_algorithms.cli._factory import parameters_of, takes_more
from etrace_algorithms.cli._usage import UsageError, apart, find_learner
from etrace_algorithms.plugins.errors import PluginError, PluginWarning
from etrace_algorithms.testing import conformance
from etrace_compiler.errors import explain_error
from etrace_compiler.terminal import is_coloured

__all__ = ['add_to']


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'check',
        help='ask whether a learner keeps what it promises',
        description='Run a learner on small models, and say whether it keeps what every learner '
        'must and what it promises. Exits with 1 if it does not or cannot be imported, with 2 if '
        'the call is wrong.',
    )
    parser.add_argument('name', metavar='NAME', help='a name, an alias or DISTRIBUTION:NAME')
    parser.add_argument(
        '--level',
        choices=('quick', 'full'),
        default='quick',
        help='how much is tried (%(default)s)',
    )
    parser.add_argument(
        '--option',
        action='append',
        type=_option,
        default=[],
        metavar='KEY=VALUE',
        help='an option of the learner, such as decay=0.9; may be repeated',
    )
    parser.add_argument('--json', action='store_true', help='write JSON')
    parser.set_defaults(run=_run)


def _option(text: str) -> tuple[str, Any]:
    """Read an option; a value that is no literal of Python is a text."""
    key, equals, value = text.partition('=')
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f'got {text!r}; expected KEY=VALUE')
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _run(options: argparse.Namespace) -> int:
    spec, name = find_learner(options.name)
    given = dict(options.option)
    try:
        with apart(), warnings.catch_warnings():
            warnings.simplefilter('ignore', PluginWarning)  # of other plugins
            _check_options(name, spec.load(), given)
            report = conformance.check_learner(name, options.level, **given)
    except PluginError as error:
        print(f'etrace check: {error}', file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.to_str(is_coloured(sys.stdout)))
    return 0 if report.ok else 1


def _check_options(name: str, factory: Any, given: dict[str, Any]) -> None:
    parameters = {p.name: p for p in parameters_of(factory)}
    needed = [p.name for p in parameters.values() if p.default is None and p.name not in given]
    unknown = [] if takes_more(factory) else [key for key in given if key not in parameters]
    if needed or unknown:
        wrong = [f'no {key}' for key in needed] + [f'an unknown {key}' for key in unknown]
        raise UsageError(
            explain_error(
                name,
                'takes other options',
                got=', '.join(wrong),
                expected=f'options among {", ".join(parameters) or "none"}',
                fix=f'Pass --option KEY=VALUE; `etrace info {name}` describes them.',
                code='ETA524',
            )
        )

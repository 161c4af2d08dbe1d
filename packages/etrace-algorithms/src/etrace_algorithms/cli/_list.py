"""`etrace list`: the learners that are installed, and the plugins that cannot be used."""

import argparse
import json
import os
import textwrap
from dataclasses import asdict
from typing import Any

from etrace_algorithms.plugins.discovery import Discovery
from etrace_algorithms.plugins.lookup import Settings, discovered
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['add_to', 'as_json', 'as_text']

_WIDTH = 100


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser('list', help='list every learner and every plugin problem')
    parser.add_argument('--json', action='store_true', help='write JSON')
    parser.add_argument(
        '--strict',
        action='store_true',
        help='exit with 1 if a plugin cannot be used (also with ETRACE_STRICT_PLUGINS=1)',
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found = discovered()
    print(as_json(found) if options.json else as_text(found))
    strict = options.strict or Settings.of(os.environ).strict
    return 1 if strict and found.problems else 0


def as_json(found: Discovery) -> str:
    """Return what was found for a machine."""
    return json.dumps(
        {
            'learners': [_describe(spec, found) for spec in found.registry.specs],
            'problems': [asdict(problem) for problem in found.problems],
            'disabled': list(found.disabled),
        },
        indent=2,
    )


def _describe(spec: LearnerSpec, found: Discovery) -> dict[str, Any]:
    origin = spec.origin
    return {
        'name': spec.name,
        'ask_for': found.registry.name_of(spec),
        'aliases': list(spec.aliases),
        'summary': spec.summary,
        'exactness': spec.exactness,
        'memory': spec.memory,
        'reference': spec.reference,
        'distribution': origin.distribution if origin else None,
        'version': origin.version if origin else None,
        'plugin': origin.plugin if origin else None,
        'builtin': origin.is_builtin if origin else False,
        'requires': list(spec.requires),
        'missing': list(spec.missing()),
    }


def as_text(found: Discovery) -> str:
    """Return what was found for a reader: a table, a paragraph for each learner, the problems."""
    rows = [('LEARNER', 'EXACTNESS', 'MEMORY', 'FROM')]
    rows += [
        (found.registry.name_of(spec), spec.exactness, spec.memory, str(spec.origin))
        for spec in found.registry.specs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ['  '.join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    if not found.registry.specs:
        lines.append('none: is etrace-algorithms installed, or is everything disabled?')
    blocks = ['\n'.join(lines)]
    blocks += [_paragraph(spec, found) for spec in found.registry.specs]
    if found.disabled:
        blocks.append(f'Disabled: {", ".join(found.disabled)}')
    if found.problems:
        count = len(found.problems)
        items = [_wrap(str(problem), '  ! ') for problem in found.problems]
        blocks.append('\n'.join([f'{count} problem{"s" if count > 1 else ""}:', *items]))
    return '\n\n'.join(blocks)


def _paragraph(spec: LearnerSpec, found: Discovery) -> str:
    lines = [found.registry.name_of(spec), _wrap(spec.summary)]
    if spec.aliases:
        lines.append(_wrap(f'Also: {", ".join(spec.aliases)}'))
    lines.append(_wrap(f'Reference: {spec.reference}'))
    if missing := spec.missing():
        lines.append(_wrap(f'Not installed, but required: {", ".join(missing)}'))
    return '\n'.join(lines)


def _wrap(text: str, indent: str = '    ') -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
    )

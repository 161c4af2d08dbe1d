"""`etrace list`: the learners that are installed, and the plugins that cannot be used."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from etrace_algorithms.cli._table import table
from etrace_algorithms.cli._usage import installed, paragraph
from etrace_algorithms.plugins.discovery import Discovery
from etrace_algorithms.plugins.lookup import Settings
from etrace_algorithms.plugins.spec import LearnerSpec
from etrace_compiler.terminal import is_coloured

__all__ = ['add_to', 'as_json', 'as_text', 'describe']


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'list',
        help='list every learner and every plugin problem',
        description='List the learners that are installed, where each comes from and what it '
        'promises, and the plugins that cannot be used, with the reason. Exits with 1 in strict '
        'mode if there are such plugins.',
    )
    parser.add_argument('--json', action='store_true', help='write JSON')
    parser.add_argument(
        '--strict',
        action='store_true',
        help='exit with 1 if a plugin cannot be used (also with ETRACE_STRICT_PLUGINS=1)',
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found = installed()
    print(as_json(found) if options.json else as_text(found, is_coloured(sys.stdout)))
    strict = options.strict or Settings.of(os.environ).strict
    return 1 if strict and found.problems else 0


def as_json(found: Discovery) -> str:
    """Return what was found for a machine."""
    return json.dumps(
        {
            'learners': [
                describe(spec, found.registry.name_of(spec)) for spec in found.registry.specs
            ],
            'problems': [asdict(problem) for problem in found.problems],
            'disabled': list(found.disabled),
        },
        indent=2,
    )


def describe(spec: LearnerSpec, name: str) -> dict[str, Any]:
    """Return what a learner announces, for a machine; `name` is the one to ask for."""
    origin = spec.origin
    return {
        'name': spec.name,
        'ask_for': name,
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


def as_text(found: Discovery, drawn: bool = False) -> str:
    """Return what was found for a reader: a table, a paragraph for each learner, the problems."""
    rows = [
        (found.registry.name_of(spec), spec.exactness, spec.memory, str(spec.origin))
        for spec in found.registry.specs
    ]
    lines = [table(('learner', 'exactness', 'memory', 'from'), rows, drawn)]
    if not rows:
        lines.append('none: is etrace-algorithms installed, or is everything disabled?')
    blocks = ['\n'.join(lines)]
    blocks += [_paragraph(spec, found) for spec in found.registry.specs]
    if found.disabled:
        blocks.append(paragraph(f'Disabled: {", ".join(found.disabled)}', ''))
    if found.problems:
        count = len(found.problems)
        items = [paragraph(str(problem), '  ! ') for problem in found.problems]
        blocks.append('\n'.join([f'{count} problem{"s" if count > 1 else ""}:', *items]))
    return '\n\n'.join(blocks)


def _paragraph(spec: LearnerSpec, found: Discovery) -> str:
    lines = [found.registry.name_of(spec), paragraph(spec.summary)]
    if spec.aliases:
        lines.append(paragraph(f'Also: {", ".join(spec.aliases)}'))
    lines.append(paragraph(f'Reference: {spec.reference}'))
    if missing := spec.missing():
        lines.append(paragraph(f'Not installed, but required: {", ".join(missing)}'))
    return '\n'.join(lines)

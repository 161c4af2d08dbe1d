"""`etrace info`: everything that is known about one learner."""

import argparse
import json
import sys
from typing import Any

from etrace_algorithms.cli._factory import Parameter, formula_of, parameters_of
from etrace_algorithms.cli._list import describe
from etrace_algorithms.cli._table import table
from etrace_algorithms.cli._usage import apart, find_learner, paragraph
from etrace_algorithms.plugins.citation import cite
from etrace_algorithms.plugins.errors import LearnerLoadError
from etrace_algorithms.plugins.spec import EXACTNESS, LearnerSpec
from etrace_compiler.terminal import is_coloured, paint

__all__ = ['add_to']


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        'info',
        help='say everything about one learner',
        description='Say what a learner is, which parameters it takes, what it costs and whom to '
        'cite. Exits with 1 if the learner cannot be imported, with 2 if there is no such learner.',
    )
    parser.add_argument('name', metavar='NAME', help='a name, an alias or DISTRIBUTION:NAME')
    parser.add_argument('--json', action='store_true', help='write JSON')
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    spec, name = find_learner(options.name)
    parameters: tuple[Parameter, ...] = ()
    formula = error = ''
    try:
        with apart():
            factory = spec.load()
        parameters, formula = parameters_of(factory), formula_of(factory)
    except LearnerLoadError as failure:
        error = str(failure)
    write = _as_json if options.json else _as_text
    print(write(spec, name, parameters, formula, error))
    if error:
        print(f'etrace info: {error}', file=sys.stderr)
    return 1 if error else 0


def _as_json(
    spec: LearnerSpec, name: str, parameters: tuple[Parameter, ...], formula: str, error: str
) -> str:
    found = {
        **describe(spec, name),
        'promise': EXACTNESS[spec.exactness],
        'factory': spec.factory if isinstance(spec.factory, str) else None,
        'parameters': [
            {
                'name': p.name,
                'type': p.type,
                'required': p.default is None,
                'default': p.default,
                'meaning': p.meaning,
            }
            for p in parameters
        ],
        'formula': formula,
        'bibtex': cite(spec),
        'error': error or None,
    }
    return json.dumps(found, indent=2)


def _as_text(
    spec: LearnerSpec, name: str, parameters: tuple[Parameter, ...], formula: str, error: str
) -> str:
    coloured = is_coloured(sys.stdout)

    def titled(title: str, text: str) -> str:
        return f'{paint(title, "bold", coloured)}\n{text}'

    blocks = [titled(f'{name}, from {spec.origin}', paragraph(spec.summary))]
    if spec.aliases:
        blocks.append(titled('Also', paragraph(', '.join(spec.aliases))))
    if formula:
        blocks.append(titled('Formula', '\n'.join(f'    {x}' for x in formula.splitlines())))
    blocks.append(titled('Exactness', paragraph(f'{spec.exactness}: {EXACTNESS[spec.exactness]}')))
    blocks.append(titled('Memory', paragraph(spec.memory)))
    if not error:
        blocks.append(titled('Parameters', _parameter_text(parameters, coloured)))
        blocks.append(titled('Use', f'    {_call(name, parameters)}'))
    if missing := spec.missing():
        blocks.append(titled('Not installed, but required', paragraph(', '.join(missing))))
    blocks.append(titled('Reference', paragraph(spec.reference)))
    return '\n\n'.join([*blocks, cite(spec)])


def _parameter_text(parameters: tuple[Parameter, ...], coloured: bool) -> str:
    if not parameters:
        return '    none'
    rows = [(p.name, p.type, 'required' if p.default is None else p.default) for p in parameters]
    listed = table(('name', 'type', 'default'), rows, drawn=coloured)
    meanings = [paragraph(p.meaning, f'{p.name}: ') for p in parameters if p.meaning]
    indented = '\n'.join([listed, '', *meanings] if meanings else [listed]).splitlines()
    return '\n'.join(f'    {line}' if line else '' for line in indented)


def _call(name: str, parameters: tuple[Parameter, ...]) -> str:
    needed = ''.join(f', {p.name}=...' for p in parameters if p.default is None)
    return f"etrace_algorithms.compile(model, '{name}', x, batch_size=8{needed})"

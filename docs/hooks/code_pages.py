"""Write one page for every code of the diagnostics: what it means, a model that has it, the cure.

The models are in `docs/codes`. They are compiled while the pages are rendered.
"""

import ast
import dataclasses
import importlib
import linecache
import sys
from functools import cache
from pathlib import Path

import brainstate
import jax.numpy as jnp
from mkdocs.structure.files import File

from etrace_compiler import (
    CompilationError,
    ControlFlowPolicy,
    compile_etrace_graph,
)
from etrace_compiler.diagnostics import TABLE

FOLDER = Path(__file__).resolve().parents[1] / 'codes'
NAMES = ('parameters', 'loops')
RANGES = {
    'ETC2': 'Parameters, operators and hidden states',
    'ETC3': 'Loops and branches',
}
ENTRIES = sorted(TABLE.items(), key=lambda item: item[1].code)


def add_code_pages(files, config):
    """Add the pages, and list them for the navigation."""
    nav = []
    for kind, entry in ENTRIES:
        uri = f'reference/diagnostics/{entry.code}.md'
        content = page_of(kind, entry)
        files.append(File.generated(config, uri, content=content))
        nav.append({entry.code: uri})
    return nav


def table_of_codes():
    """List all codes, each with a link to its page."""
    lines = []
    for start, title in RANGES.items():
        lines += [
            f'\n## {title}\n',
            '| code | level | |',
            '| --- | --- | --- |',
        ]
        for kind, entry in ENTRIES:
            if entry.code.startswith(start):
                link = f'[{entry.code}](diagnostics/{entry.code}.md){{ #{entry.code} }}'
                meaning = f'`{kind.value}`<br>{entry.meaning}'
                lines.append(f'| {link} | {entry.level} | {meaning} |')
    assert {entry.code[:4] for _, entry in ENTRIES} == set(RANGES)
    return '\n'.join(lines)


def page_of(kind, entry):
    """Write the page of one code."""
    parts = [
        f'---\ntitle: {entry.code}\n---',
        f'# {entry.code} `{kind.value}`',
        f'*{entry.level}.* {entry.meaning}',
        f'**What to do:** {entry.action}' if entry.action else '',
        '## A model that has it',
        *shown(entry.code),
    ]
    if cured := f'{entry.code}Cured' in sources():
        parts += ['## A cure', *shown(f'{entry.code}Cured')]
    assert cured or entry.action or entry.level == 'info'
    parts += [
        '??? note "The cell"\n\n    ```python\n    --8<-- "docs/codes/cell.py"\n    ```',
        '[All codes](../diagnostics.md) · '
        '[Why does this weight not learn?](../../how-to/read-diagnostics.md) · '
        '[How the compiler thinks](../../explanation/how-the-compiler-thinks.md)',
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def shown(name):
    """Show one model: the words about it, its source, and what the compiler says."""
    words, code = sources()[name]
    policy = policy_of(name)
    run = f"from code_pages import tell\n\nprint(tell('{name}'))"
    return [
        words,
        f'```python\n{code}\n```' if code else '',
        f'Compiled with `control_flow={policy}`:' if policy else '',
        f'```python exec="on" result="text"\n{run}\n```',
    ]


@cache
def sources():
    """Read the words and the source of every model."""
    found = {}
    for name in NAMES:
        text = (FOLDER / f'{name}.py').read_text()
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                head, *rest = node.body
                code = lines[head.end_lineno : node.end_lineno] if rest else []
                source = '\n'.join(code).strip('\n')
                found[node.name] = (
                    ast.get_docstring(node),
                    f'{lines[node.lineno - 1]}\n{source}' if source else '',
                )
    return found


@cache
def models():
    """Import the models by name, and what they are compiled with."""
    sys.path.insert(0, str(FOLDER))
    try:
        modules = [importlib.import_module(name) for name in NAMES]
    finally:
        sys.path.remove(str(FOLDER))
    found = {k: v for module in modules for k, v in vars(module).items()}
    return found, modules[-1].POLICIES


def policy_of(name):
    """Write what a model is compiled with, where it is not the default."""
    policy = models()[1].get(name)
    if policy is None:
        return ''
    changed = {
        f.name: getattr(policy, f.name)
        for f in dataclasses.fields(policy)
        if getattr(policy, f.name) != f.default
    }
    options = ', '.join(f'{key}={value!r}' for key, value in changed.items())
    return f'{ControlFlowPolicy.__name__}({options})'


def tell(name):
    """Compile a model, check that it has its code or is rid of it, and return what is said."""
    found, policies = models()
    model = found[name]()
    brainstate.nn.init_all_states(model)
    x, policy = jnp.ones(model.input_shape), policies.get(name)
    lines = []
    try:
        graph = compile_etrace_graph(model, x, control_flow=policy)
        records, exactness = graph.diagnostics, graph.exactness
    except CompilationError as error:
        records, exactness = error.records, {}
        lines.append('The model is refused with a CompilationError:')
    code = name.removesuffix('Cured')
    mine = [r for r in records if r.code == code]
    assert bool(mine) == (name == code), (name, [r.code for r in records])
    for record in mine:
        lines.append(f'{code} {record.level}: {record.message}')
        if record.source:
            place = (record.source.file, record.source.line)
            lines.append(f'    at `{linecache.getline(*place).strip()}`')
    lines += [f'gradient of {k}: {w.verdict}' for k, w in exactness.items()]
    return '\n'.join(lines)

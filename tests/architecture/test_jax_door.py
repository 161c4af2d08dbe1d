"""Only `etrace_compiler/_jax.py` opens the parts of jax that change without notice."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / 'packages/etrace-compiler/src/etrace_compiler/_jax.py'
SOURCES = [path for path in sorted(ROOT.glob('p*/*/src/**/*.py')) if path != DOOR]
CLOSED = ('jax._src', 'jax.extend', 'jax.interpreters')


def names_used(tree):
    """Yield (line, dotted name) for every import and every dotted expression."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.lineno, ast.unparse(node)


def uses_of_closed(source):
    """List the lines that reach behind the door."""
    used = names_used(ast.parse(source))
    return [line for line, name in used if f'{name}.'.startswith(tuple(f'{c}.' for c in CLOSED))]


def test_the_door_is_where_this_test_thinks():
    assert uses_of_closed(DOOR.read_text())
    assert len(SOURCES) > 10


@pytest.mark.parametrize(
    'source',
    [
        'import jax.extend',
        'import jax._src.core as core',
        'from jax import extend',
        'from jax.interpreters import ad',
        'def f():\n    from jax._src.interpreters import batching',
        'import jax\nx = jax.extend.core.Literal',
    ],
)
def test_a_planted_use_is_seen(source):
    assert uses_of_closed(source)


@pytest.mark.parametrize('source', ['import jax', 'from jax import lax', 'jax.extended.x', 'x.jax'])
def test_an_ordinary_use_is_not(source):
    assert not uses_of_closed(source)


def test_nobody_else_opens_it():
    found = {str(path.relative_to(ROOT)): uses_of_closed(path.read_text()) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}

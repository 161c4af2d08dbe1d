"""The documentation says what the sources say, and every block of Python in it runs."""

import ast
import re
from pathlib import Path

import pytest

from etrace_algorithms.cli import main
from etrace_compiler.diagnostics import TABLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(ROOT.glob('docs/**/*.md'))
SOURCES = sorted(ROOT.glob('packages/*/src/**/*.py'))
CODE = re.compile(r'ET[AC]\d{3}')
FENCE = re.compile(r'^```(\w+)([^\n]*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r'^--8<--\n([^\n:]+)[^\n]*\n--8<--$', re.MULTILINE)


def codes_in(source):
    """List the codes that a module puts into messages; those in docstrings are examples."""
    values = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {value for value in values if isinstance(value, str) and CODE.fullmatch(value)}


def blocks_that_do_not_run(page):
    """List the blocks of Python that neither the build nor a test runs."""
    return [
        code
        for language, options, code in FENCE.findall(page)
        if language in ('python', 'py') and 'exec="on"' not in options and not is_tested(code)
    ]


def is_tested(code):
    """Return whether a block only shows files that the tests or the packages hold."""
    shown = SNIPPET.findall(code)
    outside = SNIPPET.sub('', code).strip()
    return bool(shown) and not outside and all((ROOT / path).is_file() for path in shown)


def test_every_error_is_on_its_page():
    raised = set().union(*(codes_in(path.read_text()) for path in SOURCES))
    diagnostics = {entry.code for entry in TABLE.values()}
    listed = set(CODE.findall((ROOT / 'docs/reference/errors.md').read_text()))
    assert raised - diagnostics == listed
    assert diagnostics <= raised


def test_no_two_errors_share_a_code():
    page = (ROOT / 'docs/reference/errors.md').read_text()
    rows = re.findall(r'^\| \[(ET[AC]\d{3})\]', page, re.MULTILINE)
    assert len(rows) == len(set(rows)) > 30


def test_every_command_is_on_its_page(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    commands = re.findall(r'^    ([a-z-]+)(?: {2,}|$)', capsys.readouterr().out, re.MULTILINE)
    page = (ROOT / 'docs/reference/command-line.md').read_text()
    assert re.findall(r'^\| `etrace ([a-z-]+)', page, re.MULTILINE) == commands
    assert len(commands) >= 6


def test_every_diagnostic_has_a_model():
    """The pages of the codes show and compile it when they are built."""
    sources = [path.read_text() for path in ROOT.glob('docs/codes/*.py')]
    trees = [ast.parse(source).body for source in sources]
    names = {node.name for body in trees for node in body if isinstance(node, ast.ClassDef)}
    codes = {entry.code for entry in TABLE.values()}
    assert {name.removesuffix('Cured') for name in names} == {*codes, 'Cell'}
    assert codes <= names


@pytest.mark.parametrize(
    'source', ["f(code='ETC999')", "f('a', 'ETA999')", "T = {K: E('ETC999',)}"]
)
def test_a_planted_code_is_seen(source):
    assert codes_in(source)


def test_a_code_in_a_docstring_is_an_example():
    assert not codes_in('"""Ends with `[ETC999]`."""')


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT / 'docs')))
def test_every_block_of_python_runs(page):
    assert blocks_that_do_not_run(page.read_text()) == []


def test_a_planted_block_is_seen():
    assert blocks_that_do_not_run('text\n```python\nprint(1)\n```\n')
    assert not blocks_that_do_not_run('```python exec="on"\nprint(1)\n```\n')
    assert blocks_that_do_not_run('```python\n--8<--\nno/such/file.py\n--8<--\n```\n')
    assert not blocks_that_do_not_run('```python\n--8<--\nconftest.py:part\n--8<--\n```\n')

"""No file of a learner names an operator, and no operator names a learner."""

import ast
import re
from pathlib import Path

import pytest

import etrace_algorithms
from etrace_algorithms.plugins import learners
from etrace_compiler import operators

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'packages/etrace-algorithms/src/etrace_algorithms'
SHIPPED_MODELS = PACKAGE / 'testing'
LEARNERS = [
    path
    for path in sorted([*PACKAGE.rglob('*.py'), *ROOT.glob('plugins/*/src/**/*.py')])
    if not path.is_relative_to(SHIPPED_MODELS)
]
OPERATORS = sorted(ROOT.glob('packages/etrace-compiler/src/etrace_compiler/ops/*.py'))
MARKS = {op.name for op in operators() if op.name.startswith('etp_')}


def operators_named(source):
    """List what a file says of single operators: marks in its text, functions in its imports."""
    functions = {name.removeprefix('etp_') for name in MARKS}
    functions |= {f'{name}_op' for name in functions} | {'operator_named'}
    imported = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('etrace_compiler')
        for alias in node.names
    }
    return sorted(imported & functions | set(re.findall(r'\betp_\w+', source)))


def learners_named(source):
    """List the learners that a file names, by the names of their table and of their classes."""
    names = {spec.name for spec in learners()} | {'D_RTRL', 'etrace_algorithms', 'IODimTrace'}
    classes = {n for n in etrace_algorithms.__all__ if n.endswith(('Algorithm', 'RTRL', 'prop'))}
    words = set(re.findall(r'\w+', source))
    return sorted(words & (names - {'immediate', 'diagonal'} | classes))


@pytest.mark.parametrize('path', LEARNERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_learner_names_an_operator(path):
    assert operators_named(path.read_text()) == []


@pytest.mark.parametrize('path', OPERATORS, ids=lambda path: path.name)
def test_no_operator_names_a_learner(path):
    assert learners_named(path.read_text()) == []


@pytest.mark.parametrize(
    'source',
    [
        'from etrace_compiler import conv',
        'from etrace_compiler.ops import matmul_op',
        'from etrace_compiler import operator_named',
        "if operator.name == 'etp_sparse_matmul': pass",
    ],
)
def test_a_planted_operator_is_seen(source):
    assert operators_named(source)


@pytest.mark.parametrize('source', ['import etrace_algorithms', '"""For pp_prop."""', 'D_RTRL()'])
def test_a_planted_learner_is_seen(source):
    assert learners_named(source)


def test_mathematics_is_not_an_operator():
    assert not operators_named('import jax.numpy as jnp\njnp.einsum("i,i->", a, b)')

"""The built-in plugins announce what the package declares."""

import pkgutil
import tomllib
from pathlib import Path

import pytest

from etrace_algorithms.plugins import builtin, get_learner
from etrace_algorithms.plugins.discovery import discover

PYPROJECT = Path(__file__).parents[2] / 'pyproject.toml'


def test_every_module_is_declared_as_an_entry_point():
    project = tomllib.loads(PYPROJECT.read_text())['project']
    declared = project['entry-points']['etrace.learners']
    modules = {
        f'{builtin.__name__}.{module.name}' for module in pkgutil.iter_modules(builtin.__path__)
    }
    assert set(declared.values()) == modules
    assert {name.replace('-', '_') for name in declared} == {m.split('.')[-1] for m in modules}


@pytest.mark.parametrize(
    ('name', 'aliases', 'factory', 'exactness', 'memory'),
    [
        ('pp_prop', ('es_d_rtrl', 'io_dim'), 'pp_prop', 'approximate', 'O(B·(I+O·S))'),
        ('d_rtrl', ('diagonal',), 'D_RTRL', 'exact-diagonal', 'O(B·I·O·S)'),
        ('param_dim', (), 'ParamDimVjpAlgorithm', 'exact-diagonal', 'O(B·I·O·S)'),
        ('immediate', (), 'Immediate', 'immediate', 'O(1)'),
    ],
)
def test_what_each_one_says(site, name, aliases, factory, exactness, memory):
    spec = discover(site.entry_points()).registry.get(name)
    assert spec.aliases == aliases
    assert spec.factory == f'etrace_algorithms.learners:{factory}'
    assert (spec.exactness, spec.memory, spec.requires) == (exactness, memory, ())
    assert spec.summary.endswith('.')
    assert spec.reference


@pytest.mark.parametrize('name', ['pp_prop', 'd_rtrl', 'param_dim', 'immediate'])
def test_each_one_loads(site, name):
    assert callable(get_learner(name).load())

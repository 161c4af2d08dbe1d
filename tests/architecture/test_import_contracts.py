"""The import contracts in `pyproject.toml` hold, and each one notices a violation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """Make a copy of the three packages that a test may spoil."""
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    for source in ROOT.glob('packages/*/src/*'):
        shutil.copytree(source, tmp_path / source.name)
    return tmp_path


def lint_imports(folder):
    """Run import-linter on the packages in a folder."""
    command = [Path(sys.executable).with_name('lint-imports'), '--no-cache']
    env = os.environ | {'PYTHONPATH': str(folder)}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def test_the_repository_keeps_its_contracts(copy):
    code, output = lint_imports(copy)
    assert code == 0, output
    assert '0 broken' in output


def test_every_source_file_is_in_a_package_and_so_is_seen(copy):
    folders = {path.parent for path in copy.glob('etrace_*/**/*.py')}
    assert [folder for folder in folders if not (folder / '__init__.py').exists()] == []


@pytest.mark.parametrize(
    ('module', 'line', 'contract'),
    [
        ('etrace_compiler/errors.py', 'import etrace_algorithms', 'Packages'),
        ('etrace_compiler/graph.py', 'def f():\n    import etrace_nn', 'Packages'),
        ('etrace_algorithms/rule.py', 'import etrace_nn', 'Packages'),
        ('etrace_nn/linear.py', 'import etrace_algorithms', 'Packages'),
        ('etrace_algorithms/rule.py', 'import pluggy', 'pluggy'),
        ('etrace_compiler/graph.py', 'import etrace_compiler.executor', 'Compiler'),
        ('etrace_compiler/brand_new.py', 'import etrace_compiler.graph', 'Compiler'),
        ('etrace_compiler/drawing/_svg.py', 'import etrace_compiler.graph', 'Drawing'),
        ('etrace_algorithms/rule.py', 'import etrace_algorithms.vjp', 'Algorithms'),
        ('etrace_algorithms/rules/pp_prop.py', 'import etrace_algorithms.rules.d_rtrl', 'Learning'),
        ('etrace_nn/linear.py', 'import etrace_nn.neurons', 'Layers'),
    ],
)
def test_a_planted_import_is_found(copy, module, line, contract):
    with (copy / module).open('a') as file:
        file.write(f'\n\n{line}\n')
    code, output = lint_imports(copy)
    assert code == 1, output
    broken = [row for row in output.splitlines() if ' BROKEN' in row]
    assert any(row.startswith(contract) for row in broken), output

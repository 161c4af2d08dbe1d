"""What the packages announce in their metadata can be imported."""

import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def announced():
    """Yield (distribution, target) for every script and entry point in the repository."""
    for path in sorted(ROOT.glob('p*/*/pyproject.toml')):
        project = tomllib.loads(path.read_text())['project']
        for table in (project.get('scripts', {}), *project.get('entry-points', {}).values()):
            for target in table.values():
                yield pytest.param(target, id=f'{project["name"]}-{target}')


@pytest.mark.parametrize('target', list(announced()))
def test_target_can_be_imported(target):
    module, _, attributes = target.partition(':')
    found = importlib.import_module(module)
    for attribute in filter(None, attributes.split('.')):
        found = getattr(found, attribute)
    assert not attributes or callable(found)


def test_each_package_imports_under_its_own_name():
    for path in sorted(ROOT.glob('packages/*')):
        importlib.import_module(path.name.replace('-', '_'))

"""All packages and plugins are released together, under one version and one licence."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob('p*/*/pyproject.toml'))
PROJECTS = {path.name: tomllib.loads((path / 'pyproject.toml').read_text()) for path in FOLDERS}
LEADER = PROJECTS['etrace-compiler']['project']

each_folder = pytest.mark.parametrize('folder', FOLDERS, ids=lambda path: path.name)


def test_the_three_packages_are_seen():
    assert {'etrace-compiler', 'etrace-algorithms', 'etrace-nn'} <= PROJECTS.keys()


@each_folder
def test_same_version_and_python(folder):
    project = PROJECTS[folder.name]['project']
    assert project['name'] == folder.name
    assert project['version'] == LEADER['version']
    assert project['requires-python'] == LEADER['requires-python']


@each_folder
def test_siblings_admit_the_version_and_cap_it(folder):
    for requirement in map(Requirement, PROJECTS[folder.name]['project']['dependencies']):
        if requirement.name in PROJECTS:
            assert LEADER['version'] in requirement.specifier
            assert '99' not in requirement.specifier


def test_shared_requirements_have_one_bound():
    bounds = {}
    for project in PROJECTS.values():
        for requirement in map(Requirement, project['project']['dependencies']):
            bounds.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


@each_folder
def test_licence_is_the_repository_s(folder):
    project = PROJECTS[folder.name]['project']
    assert project['license'] == 'Apache-2.0'
    assert (folder / 'LICENSE').read_bytes() == (ROOT / 'LICENSE').read_bytes()

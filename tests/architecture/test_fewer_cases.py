"""`--one-case-in`: a second stack runs every test, and fewer cases of each."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
MANY = [f'test_a.py::test_many[{number}]' for number in range(40)]
FEW = ['test_a.py::test_few[0]', 'test_a.py::test_few[1]', 'test_b.py::test_one']


@dataclass(frozen=True)
class Item:
    nodeid: str


@pytest.fixture
def drawn(pytestconfig):
    """What the repository's hook keeps and leaves out."""
    plugins = pytestconfig.pluginmanager.get_plugins()
    (root,) = (p for p in plugins if getattr(p, '__file__', None) == str(ROOT / 'conftest.py'))

    def draw(every):
        items, gone = [Item(nodeid) for nodeid in (*MANY, *FEW)], []
        hook = SimpleNamespace(pytest_deselected=lambda items: gone.extend(items))
        config = SimpleNamespace(getoption={'--one-case-in': every}.get, hook=hook)
        root.pytest_collection_modifyitems(config, items)
        return [item.nodeid for item in items], [item.nodeid for item in gone]

    return draw


def test_nothing_is_left_out_unless_asked_for(drawn):
    assert drawn(1) == ([*MANY, *FEW], [])


def test_every_test_keeps_a_case_and_the_draw_is_always_the_same(drawn):
    kept, gone = drawn(8)
    assert kept == [*(MANY[number] for number in [7, 16, 27, 30, 38]), FEW[0], FEW[2]]
    assert sorted(kept + gone) == sorted([*MANY, *FEW])

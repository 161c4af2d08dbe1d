"""The comparisons in the READMEs of the plugins are those that are measured."""

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'plugins' / 'comparisons.py'
spec = importlib.util.spec_from_file_location('comparisons', SCRIPT)
comparisons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comparisons)

PLACES = [pytest.param(found, id=f'{readme.parent.name}-{found[2]}{found[3] or ""}')
          for readme, found in comparisons.places()]  # fmt: skip


def numbers(table):
    return [float(x) for x in re.findall(r'-?\d+\.\d+', table)]


@pytest.mark.parametrize('place', PLACES)
def test_a_comparison_is_current(place):
    """Run `python plugins/comparisons.py` where it is not."""
    written, measured = numbers(place[4]), numbers(comparisons.table_of(place))
    assert len(written) == len(measured) == 9
    assert written == pytest.approx(measured, abs=0.03, rel=0.05)

"""The network that the documentation draws: the picture names its lines."""

import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples/three_layers.py'


def test_the_picture_names_the_lines_that_call_the_layers():
    root = ET.fromstring(runpy.run_path(str(EXAMPLE))['picture']())
    words = [t.text for t in root.iter('{http://www.w3.org/2000/svg}text')]
    named = {int(w.split(':')[1]) for w in words if w and w.startswith('three_layers.py:')}
    lines = EXAMPLE.read_text().splitlines()
    assert [lines[n - 1].strip() for n in sorted(named)] == [
        f'x = self.rnn{i}(x)' for i in (1, 2, 3)
    ]
    assert {'rnn1', 'rnn2', 'rnn3', 'readout', 'input', 'output'} <= set(words)

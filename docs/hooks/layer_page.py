"""Measure every layer and write the tables of `docs/reference/layers.md`.

Run it after a change of a layer: `python docs/hooks/layer_page.py`. The tests of the layers hold
what they measure against the page.
"""

import sys
from pathlib import Path

import brainstate
import jax

from etrace_algorithms.testing import Probe
from etrace_nn.testing import LAYERS

PAGE = Path(__file__).parents[1] / 'reference' / 'layers.md'
START, END = '<!-- layers -->', '<!-- /layers -->'
STEPS, BATCH = 50, 2
HEAD = (
    '| layer | hidden states | operations | gradient | trace | cosine |\n'
    '| --- | --- | ---: | --- | ---: | ---: |'
)


def line_of(row, facts, batch):
    """Write the line of one layer."""
    cells = (
        f'[`{row.name}`][etrace_nn.{row.name}]',
        ', '.join(f'`{name}`' for name in states_of(facts)),
        str(facts.relations),
        facts.verdict.value,
        # measured in double precision
        f'{facts.trace_bytes // (2 * batch)} B',
        f'{facts.cosine:.3f}',
    )
    return f'| {" | ".join(cells)} |'


def states_of(facts):
    """List the hidden states, in alphabetical order, each with its shape."""
    return sorted(f'{key} {list(shape)}' for key, shape in facts.states.items())


def check_line(row, facts, batch):
    """Check that the page has the line of a layer; cosines may differ by rounded spikes."""
    text = PAGE.read_text()
    expected = line_of(row, facts, batch)
    start = expected[: expected.index('|', 1)]
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    *cells, cosine, _ = found.split('|')
    *wanted, exactly, _ = expected.split('|')
    hint = 'run `python docs/hooks/layer_page.py`'
    assert cells == wanted, hint
    assert abs(float(cosine) - float(exactly)) < 0.02, hint


def measure(row):
    """Probe one layer, the same way in every process."""
    brainstate.random.seed(0)
    return Probe(row.build(), row.inputs(STEPS, BATCH)).facts()


def tables():
    """Write one table for each module of layers."""
    parts = {}
    for row in LAYERS:
        parts.setdefault(row.layer.__module__, []).append(row)
    lines = []
    for module, rows in parts.items():
        title = sys.modules[module].__doc__.splitlines()[0].rstrip('.')
        lines += [f'\n## {title}\n', HEAD]
        lines += [line_of(row, measure(row), BATCH) for row in rows]
    return '\n'.join(lines)


def main():
    """Write the page."""
    jax.config.update('jax_enable_x64', True)
    head, rest = PAGE.read_text().split(START)
    _, foot = rest.split(END)
    with brainstate.environ.context(precision=64):
        text = tables()
    PAGE.write_text(f'{head}{START}\n{text}\n\n{END}{foot}')


if __name__ == '__main__':
    main()

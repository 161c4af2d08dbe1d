"""Write into the README of each plugin how its learners compare with backpropagation.

    python plugins/comparisons.py

A README has a place `<!-- comparison: NAME(option=value) --> ... <!-- end -->` for each table.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from etrace_algorithms.testing import compare_with_bptt

PLUGINS = Path(__file__).resolve().parent
PLACE = re.compile(r'(<!-- comparison: ([\w.-]+)(\([^\n]*\))? -->\n)(.*?)(<!-- end -->)', re.DOTALL)


def places() -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the places of all tables."""
    for readme in sorted(PLUGINS.glob('*/README.md')):
        yield from ((readme, found) for found in PLACE.finditer(readme.read_text()))


def table_of(place: re.Match[str]) -> str:
    """Make the table that belongs into a place."""
    call = ast.parse(f'f{place[3] or "()"}', mode='eval').body
    assert isinstance(call, ast.Call)
    options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    rows = [
        '| model | cosine to BPTT | norm / that of BPTT | cosine without a trace |',
        '| --- | --- | --- | --- |',
    ]
    for found in compare_with_bptt(place[2], **options):
        cells = found.cosine, found.ratio, found.immediate
        rows.append(f'| {found.model} | ' + ' | '.join(f'{cell:.2f}' for cell in cells) + ' |')
    return '\n'.join(rows) + '\n'


def main() -> None:
    """Fill all places."""
    for readme, place in places():
        text = readme.read_text()
        now = PLACE.search(text, text.index(place[1]))
        assert now is not None
        readme.write_text(text[: now.start(4)] + table_of(place) + text[now.end(4) :])
        print(f'{readme.parent.name}: {place[1].strip()}')


if __name__ == '__main__':
    main()

"""Tables: drawn by rich on a terminal, where it is installed, and aligned columns elsewhere."""

import importlib.util
import io
import shutil
from collections.abc import Sequence

__all__ = ['table']


def table(header: Sequence[str], rows: Sequence[Sequence[str]], drawn: bool = False) -> str:
    """Return a table as text.

    Args:
        header: One word per column.
        rows: As many texts per row.
        drawn: Draw it, for a terminal; without rich this makes no difference.

    Example:
        >>> print(table(['name', 'memory'], [['d_rtrl', 'O(B·I·O·S)'], ['immediate', 'O(1)']]))
        NAME       MEMORY
        d_rtrl     O(B·I·O·S)
        immediate  O(1)
    """
    header = [word.upper() for word in header]
    if drawn and importlib.util.find_spec('rich'):
        return _draw(header, rows)
    every = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in every)


def _draw(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.ROUNDED)
    for number, word in enumerate(header):
        drawn.add_column(word, style=None if number else 'cyan', overflow='fold')
    for row in rows:
        # texts of plugins are not markup
        drawn.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns - 4  # as it may be indented
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip('\n')

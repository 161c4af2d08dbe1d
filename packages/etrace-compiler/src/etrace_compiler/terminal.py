"""Colours for text that a terminal shows."""

import os
from typing import TextIO

__all__ = ['is_coloured', 'paint']

_STYLES = {'bold': 1, 'red': 31, 'green': 32, 'yellow': 33, 'cyan': 36}


def is_coloured(file: TextIO) -> bool:
    """Whether to write colours to a file: to terminals alone, and not where `NO_COLOR` is set."""
    wanted = not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'
    return wanted and file.isatty()


def paint(text: str, style: str, coloured: bool = True) -> str:
    r"""Put a text between the escape sequences of a style.

    Args:
        text: The text.
        style: `'bold'`, `'red'`, `'green'`, `'yellow'` or `'cyan'`.
        coloured: Whether to do so at all.

    Example:
        >>> paint('exact', 'green')
        '\x1b[32mexact\x1b[0m'
        >>> paint('exact', 'green', coloured=False)
        'exact'
    """
    return f'\x1b[{_STYLES[style]}m{text}\x1b[0m' if coloured else text

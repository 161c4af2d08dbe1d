"""Numbers of bytes and of operations, as people write and read them."""

import numbers
import re
from typing import Any

from etrace_compiler.errors import explain_error

__all__ = ['count_text', 'parse_bytes', 'size_text']

_DECIMAL = {'': 1, 'k': 10**3, 'm': 10**6, 'g': 10**9, 't': 10**12}
_BINARY = {'ki': 2**10, 'mi': 2**20, 'gi': 2**30, 'ti': 2**40}
_SIZE = re.compile(r'\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*', re.IGNORECASE)


def parse_bytes(size: Any) -> int:
    """Read a number of bytes.

    Args:
        size: An integer, or text: `'512 MB'` is 512 * 10**6 bytes, `'512 MiB'` 512 * 2**20.

    Returns:
        The number of bytes.

    Raises:
        ValueError: If the text is no size, or the number is negative.
        TypeError: If it is neither a whole number nor text.

    Example:
        >>> parse_bytes('1.5 kB'), parse_bytes('2 KiB'), parse_bytes(10)
        (1500, 2048, 10)
    """
    if isinstance(size, str):
        found = _SIZE.fullmatch(size)
        factor = found and (_DECIMAL | _BINARY).get(found[2].lower())
        if found and factor:
            return int(float(found[1]) * factor)
    elif isinstance(size, numbers.Integral) and not isinstance(size, bool):
        if int(size) >= 0:
            return int(size)
    else:
        raise TypeError(_message(size, 'is no number of bytes'))
    raise ValueError(_message(size, 'cannot be read'))


def _message(size: Any, problem: str) -> str:
    return explain_error(
        'budget',
        problem,
        got=repr(size),
        expected="a number of bytes from 0, or text such as '512 MB' or '2 GiB'",
        fix='Leave it out to plan without a limit.',
        code='ETA501',
    )


def size_text(size: float) -> str:
    """Write a number of bytes with three digits.

    Example:
        >>> size_text(0), size_text(1536), size_text(13_000_000)
        ('0 B', '1.54 kB', '13.0 MB')
    """
    return _scaled(size, ('B', 'kB', 'MB', 'GB', 'TB', 'PB'))


def count_text(count: float) -> str:
    """Write a number of operations with three digits.

    Example:
        >>> count_text(12), count_text(1536), count_text(13_000_000)
        ('12', '1.54 k', '13.0 M')
    """
    return _scaled(count, ('', 'k', 'M', 'G', 'T', 'P')).strip()


def _scaled(value: float, names: tuple[str, ...]) -> str:
    power = 0
    # 999.5 would be written with four digits
    while value >= 999.5 and power < len(names) - 1:
        value, power = value / 1000, power + 1
    if power == 0:
        return f'{value:.0f} {names[0]}'
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f'{value:.{digits}f} {names[power]}'

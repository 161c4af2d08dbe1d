"""The errors a user can meet, and the one form that all of their messages have."""

from typing import Any

__all__ = ['CompilationError', 'CompilationWarning', 'NotSupportedError', 'explain_error']


class CompilationError(ValueError):
    """Raised when a model cannot be compiled; `records` holds the decisions that led there.

    Args:
        message: The sentence shown to the user.
        records: The compilation records that caused the error.
    """

    def __init__(self, message: str, records: tuple = ()):
        super().__init__(message)
        self.records = tuple(records)


class CompilationWarning(UserWarning):
    """Warned of once where a model compiles and part of it cannot learn."""


class NotSupportedError(NotImplementedError):
    """Raised for a model or an option that is well formed but outside what is supported."""


def explain_error(
    subject: str, problem: str, *, got: Any, expected: str, fix: str, code: str, where: Any = None
) -> str:
    """Write an error message: what is wrong, what was given, what was expected, what to do.

    Example:
        >>> print(explain_error('decay', 'is out of range', got=1.5, expected='0 <= decay < 1',
        ...                     fix='Pass a rank instead.', code='ETC901'))
        `decay` is out of range: got 1.5; expected 0 <= decay < 1. Pass a rank instead. [ETC901]
    """
    place = '' if where is None else f'\n  at {where}'
    return f'`{subject}` {problem}: got {got}; expected {expected}. {fix} [{code}]{place}'

"""The command line `etrace`."""

from etrace_algorithms.cli._main import main

__all__ = ['main']

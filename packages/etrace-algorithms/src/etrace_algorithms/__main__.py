"""Runs the command line: `python -m etrace_algorithms`."""

import sys

from etrace_algorithms.cli import main

if __name__ == '__main__':
    sys.exit(main())

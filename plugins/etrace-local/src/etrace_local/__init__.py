"""Local learning rules of the literature."""

from etrace_local.ostl import OSTL, FeedforwardOSTL
from etrace_local.otpe import OTPE
from etrace_local.ottt import OTTT
from etrace_local.rflo import RFLO
from etrace_local.three_factor import Modulated, ThreeFactor

__all__ = ['OSTL', 'OTPE', 'OTTT', 'RFLO', 'FeedforwardOSTL', 'Modulated', 'ThreeFactor']

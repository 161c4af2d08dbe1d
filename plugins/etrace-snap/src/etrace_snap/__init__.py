"""Real-time recurrent learning with the complete Jacobian, and its sparse approximation."""

from etrace_snap.rtrl import RTRL
from etrace_snap.snap import SnAp

__all__ = ['RTRL', 'SnAp']

"""Unbiased online gradients: random approximations of rank one of the influence matrix."""

from etrace_uoro.kf_rtrl import KFRTRL
from etrace_uoro.uoro import UORO

__all__ = ['KFRTRL', 'UORO']

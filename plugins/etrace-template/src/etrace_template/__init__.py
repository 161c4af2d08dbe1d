"""The learning rule of this package."""

from etrace_template.rule import DecayedTrace

__all__ = ['DecayedTrace']

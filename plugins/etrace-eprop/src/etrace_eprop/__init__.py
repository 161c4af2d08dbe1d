"""Eligibility propagation, and the regularisation of firing rates that goes with it."""

from etrace_eprop.regularise import RateRegulariser
from etrace_eprop.rule import EProp

__all__ = ['EProp', 'RateRegulariser']

"""Synthetic gradients: a predicted gradient where backpropagation is cut."""

from etrace_dni.fingerprint import FittedPredictor
from etrace_dni.fit import Fit, fit_predictor
from etrace_dni.learner import SyntheticGradients
from etrace_dni.predictor import Predictor

__all__ = ['Fit', 'FittedPredictor', 'Predictor', 'SyntheticGradients', 'fit_predictor']

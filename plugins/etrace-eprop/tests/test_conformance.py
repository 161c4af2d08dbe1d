"""What every learner must keep."""

from etrace_algorithms.testing import conformance_tests

test_conformance = conformance_tests('eprop', 'quick', kappa=0.5)

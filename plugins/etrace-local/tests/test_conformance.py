"""What every learner must keep."""

from etrace_algorithms.testing import conformance_tests

RANDOM = {'kind': 'random', 'observable': ('v', 'h')}

test_rflo = conformance_tests('rflo', 'quick', leak=0.5, feedback=RANDOM)
test_ottt = conformance_tests('ottt', 'quick', leak=0.5)
test_otpe = conformance_tests('otpe', 'quick', leak=0.5)
test_ostl = conformance_tests('ostl', 'quick')

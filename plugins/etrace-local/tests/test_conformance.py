"""What every learner must keep."""

from etrace_algorithms.testing import QUESTIONS, conformance_tests

RANDOM = {'kind': 'random', 'observable': ('v', 'h')}

test_rflo = conformance_tests('rflo', 'quick', leak=0.5, feedback=RANDOM)
test_ottt = conformance_tests('ottt', 'quick', leak=0.5)
test_otpe = conformance_tests('otpe', 'quick', leak=0.5)
test_ostl = conformance_tests('ostl', 'quick')


def loudness(arguments):
    """A modulator for models that have no argument for one: the sum of what comes in."""
    return arguments[0].sum(-1)


test_three_factor = conformance_tests(
    'three_factor',
    'quick',
    # its gradient does not depend on the loss, and so is not linear in it
    only=[question for question in QUESTIONS if question != 'linear'],
    decay=0.5,
    modulator=loudness,
    observable=('v', 'h'),
)

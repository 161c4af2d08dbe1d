"""Branches and loops inside the step: what comes out is what backpropagation finds."""

import pytest

from etrace_algorithms.testing import assert_gradients_close
from etrace_compiler import ControlFlowPolicy

from .branch_models import BRANCHES, SAFE
from .loop_models import LOOPS
from .measured import check_case, check_first_step, compiled, measured, one_step

#: The models have parameters that some steps do not use.
pytestmark = pytest.mark.filterwarnings('ignore:.*ETC208')
#: Every loop is followed inside, however short.
INSIDE = ControlFlowPolicy(scan_unroll_limit=0)


@pytest.mark.parametrize('case', [*BRANCHES.values(), *SAFE.values()], ids=str)
def test_branches(case):
    check_case(case)


@pytest.mark.parametrize('case', LOOPS.values(), ids=str)
def test_loops_written_out(case):
    check_case(case)


@pytest.mark.parametrize('case', LOOPS.values(), ids=str)
def test_loops_followed_inside(case):
    check_case(case, INSIDE)


@pytest.mark.parametrize('case', LOOPS.values(), ids=str)
def test_loops_written_out_and_followed_inside_are_the_same(case):
    """Not only where both are exact: they drop the same."""
    out, inside = measured(case, None), measured(case, INSIDE)
    assert_gradients_close(inside.whole.gradients, out.whole.gradients, rtol=1e-9)


FOLDED = (
    'euler recurrent_substeps several_carries loop_in_a_loop surrogates_in_a_loop '
    'vmap_and_checkpoint_in_a_loop filled_buffer map_in_batches'
)


@pytest.mark.parametrize(
    'case', [BRANCHES['switch_of_three'], *map(LOOPS.get, FOLDED.split())], ids=str
)
def test_pp_prop_of_one_step(case):
    learner = compiled(case, 'pp_prop', INSIDE)
    check_first_step(case, one_step(learner, case.xs[0]))

"""Announces `d_rtrl`."""

from collections.abc import Iterable

from etrace_algorithms.plugins._sources import WANG, WILLIAMS
from etrace_algorithms.plugins.hookspecs import hookimpl
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the diagonal learner."""
    return [
        LearnerSpec(
            name='d_rtrl',
            summary='Real-time recurrent learning along the diagonal: one trace per weight and '
            'state, carried forward by the position-diagonal Jacobian.',
            factory='etrace_algorithms.learners:D_RTRL',
            exactness='exact-diagonal',
            memory='O(B·I·O·S)',
            reference='Wang et al. (2026), Model-agnostic linear-memory online learning in '
            'spiking neural networks, Nature Communications 17:1745, '
            'doi:10.1038/s41467-026-68453-w; after Williams & Zipser (1989), A learning '
            'algorithm for continually running fully recurrent neural networks, Neural '
            'Computation 1(2):270-280, doi:10.1162/neco.1989.1.2.270',
            aliases=('diagonal',),
            bibtex=WANG + WILLIAMS,
        )
    ]

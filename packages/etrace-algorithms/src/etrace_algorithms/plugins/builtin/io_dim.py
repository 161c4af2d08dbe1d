"""Announces `pp_prop`, also known as `es_d_rtrl` and `io_dim`."""

from collections.abc import Iterable

from etrace_algorithms.plugins._sources import WANG
from etrace_algorithms.plugins.hookspecs import hookimpl
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learner whose traces have the dimensions of inputs and outputs."""
    return [
        LearnerSpec(
            name='pp_prop',
            summary='Linear memory: one exponentially smoothed trace for the inputs and one for '
            'the outputs of each operation, their product standing in for the full trace.',
            factory='etrace_algorithms.learners:pp_prop',
            exactness='approximate',
            memory='O(B·(I+O·S))',
            reference='Wang et al. (2026), Model-agnostic linear-memory online learning in '
            'spiking neural networks, Nature Communications 17:1745, '
            'doi:10.1038/s41467-026-68453-w',
            aliases=('es_d_rtrl', 'io_dim'),
            bibtex=WANG,
        )
    ]

"""Announces `param_dim`."""

from collections.abc import Iterable

from etrace_algorithms.plugins._sources import WANG
from etrace_algorithms.plugins.hookspecs import hookimpl
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['etrace_register_learners']


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learner whose traces have the dimensions of the parameters."""
    return [
        LearnerSpec(
            name='param_dim',
            summary='Traces with the dimensions of the parameters, carried forward by the '
            'position-diagonal Jacobian: the algorithm of d_rtrl under the name of its class.',
            factory='etrace_algorithms.learners:ParamDimVjpAlgorithm',
            exactness='exact-diagonal',
            memory='O(B·I·O·S)',
            reference='Wang et al. (2026), Model-agnostic linear-memory online learning in '
            'spiking neural networks, Nature Communications 17:1745, '
            'doi:10.1038/s41467-026-68453-w',
            bibtex=WANG,
        )
    ]

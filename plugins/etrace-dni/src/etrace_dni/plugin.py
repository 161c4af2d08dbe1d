"""The plugin: announces the learner, and imports it only when somebody asks for it."""

from collections.abc import Iterable

from etrace_algorithms.plugins import LearnerSpec, hookimpl

__all__ = ['etrace_register_learners']

_BIBTEX = """@inproceedings{jaderberg2017decoupled,
  title = {Decoupled Neural Interfaces using Synthetic Gradients},
  author = {Jaderberg, Max and Czarnecki, Wojciech Marian and Osindero, Simon and Vinyals, Oriol
            and Graves, Alex and Silver, David and Kavukcuoglu, Koray},
  booktitle = {International Conference on Machine Learning},
  year = {2017},
  eprint = {1608.05343},
}
@inproceedings{czarnecki2017understanding,
  title = {Understanding Synthetic Gradients and Decoupled Neural Interfaces},
  author = {Czarnecki, Wojciech Marian and {\\'S}wirszcz, Grzegorz and Jaderberg, Max and
            Osindero, Simon and Vinyals, Oriol and Kavukcuoglu, Koray},
  booktitle = {International Conference on Machine Learning},
  year = {2017},
  eprint = {1703.00522},
}
"""


@hookimpl
def etrace_register_learners() -> Iterable[LearnerSpec]:
    """Return the learners of this package."""
    return [
        LearnerSpec(
            name='dni',
            summary='Synthetic gradients: windows of backpropagation that end with a fitted '
            'prediction of what all later losses say of the hidden states.',
            factory='etrace_dni.learner:SyntheticGradients',
            exactness='approximate',
            memory='O(K·B·N·S + N²·S²)',
            reference='Jaderberg et al. (2017), Decoupled neural interfaces using synthetic '
            'gradients, ICML, arXiv:1608.05343; Czarnecki et al. (2017), Understanding synthetic '
            'gradients and decoupled neural interfaces, ICML, arXiv:1703.00522',
            aliases=('synthetic_gradients',),
            bibtex=_BIBTEX,
        )
    ]

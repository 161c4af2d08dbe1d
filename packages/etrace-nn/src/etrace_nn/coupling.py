"""Coupling: from the state of a synapse to the current into a membrane."""

from typing import Any

from etrace_nn._layer import Layer
from etrace_nn._values import in_unit_of, marked

__all__ = ['COBA', 'CUBA']


class CUBA(Layer):
    r"""Couple by current: $I = s\,g$, whatever the potential.

    **Shapes**: `g (...)` -> `I (...)`.

    **Exactness**: exact at every length, between states that do not mix.

    Args:
        scale: Factor $s$, such as `-1` for inhibition or one with a unit.
        name: Name of the module.

    Example:
        >>> import brainunit as u
        >>> CUBA(-2.0)(3.0 * u.nA) / u.nA
        -6.0
    """

    def __init__(self, scale: Any = 1.0, name: str | None = None):
        super().__init__(name=name)
        self.scale = scale

    def update(self, g: Any, V: Any = None) -> Any:
        """Return the current.

        Args:
            g: State of the synapse.
            V: Ignored, so that both kinds of coupling are called alike.
        """
        return marked(self.scale) * g


class COBA(Layer):
    r"""Couple by conductance: $I = g\,(E - V)$.

    **Shapes**: `g (...)`, `V (...)` -> `I (...)`.

    **Exactness**: exact at every length, between states that do not mix.

    Args:
        E: Reversal potential.
        name: Name of the module.

    Example:
        >>> import brainunit as u
        >>> COBA(E=0 * u.mV)(2.0 * u.nS, -50.0 * u.mV) / u.pA
        100.0
    """

    def __init__(self, E: Any, name: str | None = None):
        super().__init__(name=name)
        self.E = E

    def update(self, g: Any, V: Any) -> Any:
        """Return the current.

        Args:
            g: Conductance.
            V: Membrane potential.

        Raises:
            ValueError: If `E` and `V` differ in unit.
        """
        E = in_unit_of(marked(self.E), V, 'COBA E', 'Give `E` a potential, such as mV.')
        return g * (E - V)

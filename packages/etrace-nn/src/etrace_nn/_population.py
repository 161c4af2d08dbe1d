"""What neurons and synapses have in common: properties of a population, and a time step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etrace_compiler.errors import explain_error
from etrace_nn._layer import StatefulLayer
from etrace_nn._time import decay_of
from etrace_nn._values import as_size, check_unit, in_unit_of, marked, per_position

__all__ = ['Neuron', 'Population']


class Population(StatefulLayer):
    """A layer that keeps its shape, with time constants and other properties by position."""

    def __init__(
        self,
        in_size: int | Sequence[int],
        states: Mapping[str, Any],
        dt: Any,
        name: str | None,
        argument: str | None = None,
        **properties: Any,
    ):
        super().__init__(name=name)
        self.in_size = self.out_size = as_size(in_size)
        self.dt = dt
        self._hold(self.out_size, states, argument)
        self._set(**properties)

    def _set(self, **properties: Any) -> None:
        """Keep properties: scalars, one value for each position, or `ParamState`s."""
        for key, value in properties.items():
            setattr(self, key, per_position(value, self.out_size, key))

    def _decay(self, tau: str) -> Any:
        return decay_of(getattr(self, tau), self.dt, tau)


class Neuron(Population):
    """A population with a membrane potential `V`, of which spikes are a function."""

    def __init__(
        self,
        in_size: int | Sequence[int],
        states: Mapping[str, Any],
        potentials: Mapping[str, Any],
        spk_fun: Callable[[Any], Any],
        spk_reset: str,
        dt: Any,
        name: str | None,
        **properties: Any,
    ):
        super().__init__(in_size, states, dt, name, **potentials, **properties)
        _check_reset(spk_reset)
        self.spk_fun, self.spk_reset = spk_fun, spk_reset
        first, *rest = potentials
        for key in rest:
            check_unit(getattr(self, key), getattr(self, first), key, first)

    def _top(self) -> Any:
        """Return the threshold at rest, from where a soft reset leads to `V_reset`."""
        return marked(self.V_th)

    def _threshold(self) -> Any:
        """Return the present threshold."""
        return self._top()

    def get_spike(self) -> Any:
        """Return the spikes of the present states, a number for each neuron."""
        scale = self._top() - marked(self.V_reset)
        return self.spk_fun((self.V.value - self._threshold()) / scale)

    def _after_reset(self, spike: Any) -> Any:
        """Return the potential after the reset of those that spiked."""
        V = self.V.value
        top = V if self.spk_reset == 'hard' else self._top()
        return V - (top - marked(self.V_reset)) * spike

    def _drive(self, current: Any) -> Any:
        """Return input times resistance, a potential."""
        return in_unit_of(
            marked(self.R) * current,
            self.V.value,
            f'{type(self).__name__} input times R',
            'Give the input a current and R a resistance, such as mA and ohm.',
        )

    def _relax(self, V: Any, goal: Any, tau: str = 'tau') -> Any:
        """Let a potential relax to a goal over one step."""
        return goal + (V - goal) * self._decay(tau)


def _check_reset(spk_reset: str) -> None:
    """Check the name of a reset.

    Raises:
        ValueError: If it is neither `'soft'` nor `'hard'`.
    """
    if spk_reset not in ('soft', 'hard'):
        raise ValueError(
            explain_error(
                'spk_reset',
                'is unknown',
                got=repr(spk_reset),
                expected="'soft' or 'hard'",
                fix="Use 'soft' to subtract the threshold, 'hard' to start from `V_reset`.",
                code='ETC609',
            )
        )

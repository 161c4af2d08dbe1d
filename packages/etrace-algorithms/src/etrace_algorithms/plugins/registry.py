"""The registry: learners by name, alias and `distribution:name`. It imports no plugin."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from etrace_algorithms.plugins._messages import (
    explain_ambiguous,
    explain_not_a_name,
    explain_unknown,
)
from etrace_algorithms.plugins.errors import AmbiguousLearnerError, UnknownLearnerError
from etrace_algorithms.plugins.records import (
    Origin,
    PluginProblem,
    distribution_key,
    name_key,
)
from etrace_algorithms.plugins.spec import LearnerSpec
from etrace_compiler.errors import explain_error

__all__ = ['Registry', 'build_registry']


@dataclass(frozen=True)
class Registry:
    """Every learner that was found, and the names that lead to it.

    Args:
        specs: The learners, in the order in which they were found.
        claims: For each plain name and alias, who claims it. Several claimants make the name
            ambiguous.
        qualified: The same by `distribution:name`, which is never ambiguous.
    """

    specs: tuple[LearnerSpec, ...] = ()
    claims: Mapping[str, tuple[LearnerSpec, ...]] = field(default_factory=dict)
    qualified: Mapping[str, LearnerSpec] = field(default_factory=dict)

    def get(
        self, name: str, problems: Sequence[PluginProblem] = (), disabled: Sequence[str] = ()
    ) -> LearnerSpec:
        """Return the learner of that name.

        Args:
            name: A name, an alias or `distribution:name`.
            problems: What discovery could not use; listed when the name is unknown.
            disabled: What discovery left out; listed when the name is unknown.

        Raises:
            TypeError: If the name is not a string.
            UnknownLearnerError: If nobody offers it.
            AmbiguousLearnerError: If several distributions claim it.
        """
        if not isinstance(name, str):
            raise TypeError(explain_not_a_name(name))
        if ':' in name:
            key = _qualified_key(*name.split(':', 1))
            claimants = (self.qualified[key],) if key in self.qualified else ()
        else:
            key = name_key(name)
            claimants = self.claims.get(key, ())
        if len(claimants) == 1:
            return claimants[0]
        if claimants:
            choices = [_qualified_name(spec, name.strip()) for spec in claimants]
            raise AmbiguousLearnerError(explain_ambiguous(name, choices))
        spelt = self._qualified_spelling() if ':' in name else self._plain_spelling()
        raise UnknownLearnerError(
            explain_unknown(name, key, spelt, self.names(), problems, disabled)
        )

    def name_of(self, spec: LearnerSpec) -> str:
        """Return the shortest name under which `get` finds this learner."""
        if self.claims.get(name_key(spec.name)) == (spec,):
            return spec.name
        return _qualified_name(spec, spec.name)

    def names(self) -> tuple[str, ...]:
        """Return the shortest name of every learner."""
        return tuple(self.name_of(spec) for spec in self.specs)

    def _plain_spelling(self) -> dict[str, str]:
        every = {name_key(n): n for spec in self.specs for n in _names(spec)}
        return {key: n for key, n in every.items() if len(self.claims.get(key, ())) == 1}

    def _qualified_spelling(self) -> dict[str, str]:
        every = [_qualified_name(spec, n) for spec in self.specs for n in _names(spec)]
        return {_qualified_key(*name.split(':', 1)): name for name in every}


def build_registry(
    found: Iterable[tuple[LearnerSpec, Origin]],
) -> tuple[Registry, tuple[PluginProblem, ...]]:
    """File learners under their names.

    Within one distribution a name belongs to the first learner that has it, and a later one
    that repeats it is left out. A name of a built-in learner stays with it; whoever else claims
    it keeps `distribution:name`.

    Args:
        found: Learners and where each comes from.

    Returns:
        The registry, and a problem for each refused claim.
    """
    stamped = [replace(spec, origin=origin) for spec, origin in found]
    qualified: dict[str, LearnerSpec] = {}
    specs: list[LearnerSpec] = []
    problems: list[PluginProblem] = []
    for spec in stamped:
        keys = {_qualified_name_key(spec, name): name for name in _names(spec)}
        if taken := [name for key, name in keys.items() if key in qualified]:
            problems.append(_repeated(spec, taken[0]))
            continue
        specs.append(spec)
        qualified.update(dict.fromkeys(keys, spec))

    builtin = {name_key(n) for s in specs if _origin(s).is_builtin for n in _names(s)}
    claims: dict[str, tuple[LearnerSpec, ...]] = {}
    for spec in specs:
        for name in _names(spec):
            key = name_key(name)
            if key in builtin and not _origin(spec).is_builtin:
                problems.append(_shadowing(spec, name))
            else:
                claims[key] = (*claims.get(key, ()), spec)
    return Registry(tuple(specs), claims, qualified), tuple(problems)


def _names(spec: LearnerSpec) -> tuple[str, ...]:
    return (spec.name, *spec.aliases)


def _origin(spec: LearnerSpec) -> Origin:
    assert spec.origin is not None, 'every learner of a registry has an origin'
    return spec.origin


def _qualified_name(spec: LearnerSpec, name: str) -> str:
    return f'{_origin(spec).distribution}:{name}'


def _qualified_key(distribution: str, name: str) -> str:
    return f'{distribution_key(distribution)}:{name_key(name)}'


def _qualified_name_key(spec: LearnerSpec, name: str) -> str:
    return _qualified_key(_origin(spec).distribution, name)


def _problem(spec: LearnerSpec, error: str) -> PluginProblem:
    origin = _origin(spec)
    return PluginProblem(origin.plugin, origin.distribution, origin.version, 'name', error)


def _shadowing(spec: LearnerSpec, name: str) -> PluginProblem:
    return _problem(
        spec,
        explain_error(
            name,
            'is the name of a built-in learner',
            got=f'a claim on it by {_origin(spec)}',
            expected='a name of its own',
            fix=f'Ask for {_qualified_name(spec, name)!r}; the plain name stays with the built-in.',
            code='ETA820',
        ),
    )


def _repeated(spec: LearnerSpec, name: str) -> PluginProblem:
    return _problem(
        spec,
        explain_error(
            name,
            'is offered twice by one distribution',
            got=f'a second learner {spec.name!r} from {_origin(spec)}',
            expected='names and aliases that differ within a distribution',
            fix='Its author has to rename one; the first is kept.',
            code='ETA821',
        ),
    )

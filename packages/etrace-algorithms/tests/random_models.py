"""Models made at random: what hypothesis draws, and the module that does it."""

import random
from dataclasses import dataclass

import brainstate
from hypothesis import strategies as st

from etrace_compiler import ControlFlowPolicy, matmul

from .random_parts import CHAINS, PARAMETERS, SHAPE, STATES, fit
from .random_verbs import BLOCKS, MARKED, OPERATIONS, POINTWISE, STRUCTURAL


@dataclass(frozen=True)
class Do:
    """One instruction.

    Attributes:
        verb: What is done.
        a: Which value it is done to, counted from the latest.
        b: Which second value, weight, state or variant is taken.
        body: For a loop or a branch, the instructions inside.
    """

    verb: str
    a: int = 0
    b: int = 0
    body: tuple['Do', ...] = ()

    def __repr__(self):
        rest = f', {self.body!r}' if self.body else ''
        return f'Do({self.verb!r}, {self.a}, {self.b}{rest})'


@dataclass(frozen=True)
class Layout:
    """How parameters and states lie in the module; what they are called, and in which order.

    Attributes:
        kind: `'attributes'`, `'list'`, `'dict'`, or `'modules'` with one state each.
        seed: Seed of names and order; 0 leaves both as they are.
    """

    kind: str = 'attributes'
    seed: int = 0

    def names(self, group, keys):
        """Return `(key, attribute)` in the order in which the states are made."""
        chance = random.Random(f'{self.seed} {group}')
        names = list(keys)
        if self.seed:
            names = [f'{chance.choice("abyz")}{i}_{group}' for i in range(len(keys))]
        pairs = list(zip(keys, names, strict=True))
        if self.seed:
            chance.shuffle(pairs)
        return pairs

    def put(self, model, group, states):
        """Give states to a module; return the path of each."""
        pairs = self.names(group, list(states))
        if self.kind == 'list':
            setattr(model, group, [states[key] for key, _ in pairs])
            return {key: (group, i) for i, (key, _) in enumerate(pairs)}
        if self.kind == 'dict':
            setattr(model, group, {name: states[key] for key, name in pairs})
            return {key: (group, name) for key, name in pairs}
        nested = self.kind == 'modules'
        for key, name in pairs:
            setattr(model, name, Part(states[key]) if nested else states[key])
        return {key: (name, 'it') if nested else (name,) for key, name in pairs}


class Part(brainstate.nn.Module):
    """A module with one state."""

    def __init__(self, it):
        super().__init__()
        self.it = it


def find(model, path):
    """Follow a path of attributes, keys and indices."""
    for part in path:
        is_key = isinstance(model, (list, dict))
        model = model[part] if is_key else getattr(model, part)
    return model


@dataclass(frozen=True)
class Recipe:
    """One model.

    Attributes:
        steps: What is done in a step.
        ends: Bits: 1 for a last write to a state, 2 to show all hidden states in the output.
    """

    steps: tuple[Do, ...]
    ends: int = 3


class RandomModel(brainstate.nn.Module):
    """A step that follows a recipe."""

    def __init__(self, recipe, layout=Layout()):
        super().__init__()
        self.recipe, self.layout = recipe, layout
        params = {key: brainstate.ParamState(make()) for key, make in PARAMETERS.items()}
        self.where = layout.put(self, 'weights', params)

    def init_state(self, *args, **kwargs):
        states = {key: held.make() for key, held in STATES.items()}
        self.where = {**self.where, **self.layout.put(self, 'held', states)}

    def state(self, name):
        return find(self, self.where[name])

    def update(self, x):
        h0 = self.state('h0')
        pool = [fit(x, SHAPE), h0.value, matmul(x, self.state('W').value)]
        frame = Frame(self, x, pool, SHAPE, shown=[])
        frame.follow(self.recipe.steps)
        last = frame.at(0)
        if self.recipe.ends & 1:
            h0.value = 0.5 * h0.value + last
        outs = [last, frame.at(len(pool) // 2), *frame.shown]
        if self.recipe.ends & 2:
            outs += [self.state(k).value for k in STATES if not k.startswith('still')]
        return outs


class Frame:
    """The values at hand in a step, or in the body of a loop or branch.

    Args:
        model: The model.
        x: The input of the step.
        pool: Values computed so far.
        shape: Shape in which operations work: `(BATCH, N)`, or `(N,)` within a map over rows.
        pure: Whether states may only be read.
        shown: Further outputs, where there can be any.
    """

    def __init__(self, model, x, pool, shape, pure=False, shown=None):
        self.model, self.x, self.pool, self.shape = model, x, pool, shape
        self.pure, self.shown = pure, shown

    def at(self, index):
        return fit(self.pool[-1 - index % len(self.pool)], self.shape)

    def follow(self, steps):
        for step in steps:
            made = self._do(step)
            if made is not None:
                self.pool.append(made)

    def _do(self, step):
        p = self.at(step.a)
        function = POINTWISE.get(step.verb) or STRUCTURAL.get(step.verb)
        if function is not None:
            return function(p)
        if step.verb in OPERATIONS:
            return OPERATIONS[step.verb](self, p, self.at(step.b), step.b)
        if step.verb in ('map', 'vmap') and p.ndim == 1:
            return self._run(step.body, p)
        return BLOCKS[step.verb](self, p, step.b, lambda *v, **o: self._run(step.body, *v, **o))

    def _run(self, steps, first, *more, pure=False):
        x = self.x if first.ndim > 1 else self.x.reshape(-1, self.x.shape[-1])[0]
        frame = Frame(
            self.model, x, [*self.pool, *more, first], first.shape, pure=pure or self.pure
        )
        frame.follow(steps)
        return frame.at(0)

    def param(self, name):
        return self.model.state(name).value

    def weight(self, name, k):
        return CHAINS[k % len(CHAINS)](self.param(name), self.param)

    def state(self, name):
        return self.model.state(name)

    def read(self, name):
        return STATES[name].read(self.state(name))

    def write(self, name, keep, p):
        if not self.pure:
            state = self.state(name)
            new = STATES[name].new(state, keep, p)
            state.set_value(new) if name == 'tree' else setattr(state, 'value', new)

    def show(self, p):
        if self.shown is not None:
            self.shown.append(p)


# ---------------------------------------------------------------- strategies

number = st.integers(0, 40)
#: Which value is taken: mostly one of the latest, so that little of a model goes unused.
nearby = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 5, 8])
SINKS = ('integrate', 'integrate', 'integrate', 'integrate gain', 'write', 'add', 'multiply')


def instruction(verbs, depth=0):
    """One instruction; of those with a body, up to `depth` inside each other."""

    def with_body(verb):
        body = st.just(())
        if verb in BLOCKS:
            inner = instruction((*VERBS, *BLOCKS) if depth else VERBS, depth - 1)
            body = st.lists(inner, min_size=1, max_size=3).map(tuple)
        return st.builds(Do, st.just(verb), nearby, number, body)

    return st.sampled_from(verbs).flatmap(with_body)


VERBS = (*POINTWISE, *STRUCTURAL, *OPERATIONS, *MARKED * 3, *SINKS * 3)
#: Mostly a marked operation, what becomes of its result, and where that goes.
phrases = st.tuples(
    instruction(MARKED),
    st.lists(instruction((*POINTWISE, *STRUCTURAL, *OPERATIONS, *BLOCKS), 1), max_size=2),
    instruction(SINKS),
).map(lambda parts: (parts[0], *parts[1], parts[2]))
single = instruction((*VERBS, *list(BLOCKS) * 3), 1).map(lambda step: (step,))
recipes = st.builds(
    Recipe,
    st.lists(st.one_of(phrases, phrases, single), min_size=1, max_size=6).map(
        lambda parts: tuple(step for part in parts for step in part)
    ),
    st.sampled_from([3, 3, 2, 1, 0]),
)
layouts = st.builds(
    Layout, st.sampled_from(['attributes', 'list', 'dict', 'modules']), st.integers(1, 99)
)
policies = st.sampled_from(
    [
        *[ControlFlowPolicy()] * 3,
        ControlFlowPolicy(scan_unroll_limit=0),
        ControlFlowPolicy(scan_unroll_limit=64),
        ControlFlowPolicy(cond='opaque', etp_in_control_flow='exclude'),
        ControlFlowPolicy(scan_descent='off', etp_in_control_flow='exclude'),
    ]
)

"""The blocks of Python in README.md run, one after the other, and do what the text says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

README = Path(__file__).resolve().parents[2] / 'README.md'
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks():
    """Return the blocks of Python in the order of the page."""
    return BLOCK.findall(README.read_text())


def run(codes):
    """Execute blocks in one namespace."""
    names = {}
    for code in codes:
        exec(compile(code, str(README), 'exec'), names)
    return names


def mean_loss(learner, xs, target):
    """Return the loss of the example over its sequence, from a fresh start."""
    learner.reset_state(8)
    return jnp.mean((learner.etrace_evolve(xs, return_outputs=True) - target) ** 2)


def test_the_example_learns(capsys):
    names = run(blocks())
    learner, xs, target = names['learner'], names['xs'], names['target']
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(names['gradients']))
    assert 'rnn.Wh.weight -> group 0' in capsys.readouterr().out
    after = mean_loss(learner, xs, target)
    for path, state in learner.param_states.items():  # take the update back
        state.value = jax.tree.map(lambda w, g: w + 0.1 * g, state.value, names['gradients'][path])
    assert after < mean_loss(learner, xs, target)


def test_the_example_is_short():
    assert len([line for line in blocks()[0].splitlines() if line.strip()]) <= 20


def test_a_block_that_fails_is_noticed():
    with pytest.raises(AttributeError):
        run([*blocks()[:1], 'learner.no_such_method()'])


def test_every_link_leads_to_a_file():
    links = re.findall(r'\]\(([^)#:]+)\)', README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []

"""The network of the tutorial has the mistakes that the tutorial finds in it."""

import runpy
from pathlib import Path

import brainstate
import jax.numpy as jnp

from etrace_compiler import compile_etrace_graph

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples/forgetful.py'


def test_it_has_the_mistakes_of_the_tutorial():
    model = runpy.run_path(str(EXAMPLE))['Forgetful']()
    brainstate.nn.init_all_states(model, batch_size=2)
    graph = compile_etrace_graph(model, jnp.ones((2, 16)))
    found = {r.code: r for r in graph.diagnostics if r.level != 'info'}
    assert set(found) == {'ETC208', 'ETC215'}
    assert found['ETC208'].weight_path == ('leak',)
    line = EXAMPLE.read_text().splitlines()[found['ETC215'].source.line - 1]
    assert 'x @ self.input.value' in line
    assert graph.hidden_param_op_relations == ()

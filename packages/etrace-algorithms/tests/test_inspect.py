"""`etrace inspect`: what it prints, what it answers, and its exit codes."""

import io
import json
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

import brainstate
import pytest

from etrace_algorithms import memory_plan
from etrace_algorithms.abstract import compile_abstract
from etrace_algorithms.cli import main

MODEL = """
    import brainstate
    import jax.numpy as jnp

    import etrace_nn

    print('imported')


    class Net(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = etrace_nn.GRUCell(3, 4)
            self.leak = brainstate.ParamState(jnp.full(4, 0.9))
            self.out = etrace_nn.Linear(4, 2)

        def init_state(self, batch_size=None):
            shape = (4,) if batch_size is None else (batch_size, 4)
            self.h = brainstate.HiddenState(jnp.zeros(shape))

        def update(self, x):
            self.h.value = self.leak.value * self.h.value + self.rnn(x)
            return self.out(self.h.value)


    class Forgetful(Net):
        def __init__(self):
            super().__init__()
            self.forgotten = brainstate.ParamState(jnp.ones(2))


    class Broken(Net):
        def update(self, x):
            return self.rnn(x) @ jnp.ones((3, 3))  # the line of the user


    class Writing(Net):
        def update(self, x):
            self.leak.value = self.leak.value + 1
            return super().update(x)


    class Untrainable(brainstate.nn.Module):
        def init_state(self):
            self.h = brainstate.HiddenState(jnp.zeros(3))

        def update(self, x):
            self.h.value = 0.9 * self.h.value + x
            return self.h.value


    def example():
        print('called')
        return Net(), jnp.zeros((5, 3))


    def single():
        return Net(), jnp.zeros(3)


    def ready():
        net = Net()
        brainstate.nn.init_all_states(net, 5)
        return net, jnp.zeros((5, 3))


    def forgetful():
        return Forgetful(), jnp.zeros(3)


    def broken():
        return Broken(), jnp.zeros(3)


    def writing():
        return Writing(), jnp.zeros(3)


    def untrainable():
        return Untrainable(), jnp.zeros(3)


    def raising():
        def inner():
            raise RuntimeError('no luck')  # the line that fails

        return inner()


    def leaving():
        raise SystemExit('gone')


    def number():
        return 3


    def inputs_alone():
        return jnp.zeros(3), Net()


    class Space:
        example = staticmethod(single)


    net = Net()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a user's module, which no other test has imported."""
    (tmp_path / 'user_model.py').write_text(textwrap.dedent(MODEL))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith('user_'):
            del sys.modules[name]


@pytest.fixture
def inspect(folder, capsys):
    """Run the command and return its exit code, its result and its errors."""

    def run(*arguments):
        code = main(['inspect', *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def user_graph(name, **options):
    module = sys.modules['user_model']
    model, *inputs = getattr(module, name)()
    return compile_abstract(model, *inputs, **options)


# ---------------------------------------------------------------- what it says


def test_the_report_the_contract_and_the_plan(inspect):
    code, out, err = inspect('user_model:example', '--batch', '5')
    assert code == 0
    assert out.startswith('Hidden groups:\n  0: h, rnn.h  [5, 4], S=2\n')
    assert '  leak: leak reaches h through operations that are not marked' in out
    assert 'Exactness' in out
    assert 'ETC210 warning' in out
    assert 'user_model.py:' in out
    assert str(memory_plan(user_graph('example', batch_size=5))) in out
    # what the user's module prints is no part of the result
    assert err == 'imported\ncalled\n'
    assert '\x1b' not in out


def test_nothing_is_trained_and_the_path_is_as_before(inspect):
    before = list(sys.path)
    inspect('user_model:ready')
    assert sys.path == before
    inspect('user_model:nope')
    assert sys.path == before


@pytest.mark.parametrize(
    ('target', 'varshape'),
    [
        ('user_model:single', '[4]'),
        ('user_model:ready', '[5, 4]'),
        ('user_model:Space.example', '[4]'),
    ],
)
def test_states_are_made_where_there_are_none(inspect, target, varshape):
    code, out, _ = inspect(target)
    assert code == 0
    assert f'0: h, rnn.h  {varshape}, S=2' in out


def test_levels(inspect):
    outs = {level: inspect('user_model:single', '--level', level)[1] for level in LEVELS}
    assert 'ETC200 info' in outs['info']
    assert 'ETC200 info' not in outs['warning']
    assert 'ETC210 warning' in outs['warning']
    assert 'ETC210 warning' not in outs['error']
    assert inspect('user_model:single')[1] == outs['warning']


LEVELS = ('info', 'warning', 'error')


def test_a_budget(inspect):
    _, out, _ = inspect('user_model:single', '--budget', '1 B')
    assert 'nothing fits' in out
    _, out, _ = inspect('user_model:single', '--budget', '1 GB')
    assert 'the most accurate that fits is d_rtrl' in out


def test_why_one_weight_does_not_learn(inspect):
    code, out, _ = inspect('user_model:single', '--weight', 'leak')
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == 'leak: approximate'
    records = user_graph('single').explain(weight_path='leak')
    assert records
    assert out.endswith(''.join(f'{record}\n' for record in records))
    assert 'LEARNER' not in out
    _, out, _ = inspect('user_model:single', '--weight', 'out.weight')
    assert out.startswith('out.weight: exact\n')


def test_json(inspect):
    code, out, _ = inspect('user_model:single', '--json')
    found = json.loads(out)
    assert code == 0
    assert found['target'] == 'user_model:single'
    assert found['error'] is None
    assert found['hidden_groups'] == [['h', 'rnn.h']]
    assert set(found['etrace_weights']) == {'rnn.Wrz.weight', 'rnn.Wh.weight'}
    assert set(found['excluded_weights']) == {'leak', 'out.weight'}
    assert found['exactness']['out.weight'] == {'verdict': 'exact', 'dropped': []}
    dropped = found['exactness']['leak']['dropped']
    assert 'parameter_unmarked' in {lost['reason'] for lost in dropped}
    (record,) = [r for r in found['records'] if r['code'] == 'ETC206']
    assert record['weight'] == 'leak'
    assert record['kind'] == 'parameter_unmarked'
    assert 'user_model.py' in record['source']
    graph = user_graph('single')
    assert found['memory'] == memory_plan(graph).as_dict()
    assert len(found['records']) == len(graph.diagnostics)


def test_json_about_one_weight(inspect):
    _, out, _ = inspect('user_model:single', '--json', '--weight', 'leak')
    found = json.loads(out)
    assert set(found['exactness']) == {'leak'}
    assert 'ETC206' in {record['code'] for record in found['records']}
    assert 'ETC207' not in {record['code'] for record in found['records']}


def test_a_picture(inspect, folder):
    code, _, _ = inspect('user_model:single', '--svg', 'graph.svg')
    assert code == 0
    root = ElementTree.fromstring((folder / 'graph.svg').read_text())
    assert root.tag.endswith('svg')


# ---------------------------------------------------------------- colours


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(('no_color', 'coloured'), [('', True), ('1', False)])
def test_colours_only_on_a_terminal_and_not_with_no_color(folder, monkeypatch, no_color, coloured):
    monkeypatch.setenv('NO_COLOR', no_color)
    monkeypatch.setenv('TERM', 'xterm')
    for arguments in ([], ['--weight', 'leak']):
        terminal = Terminal()
        monkeypatch.setattr(sys, 'stdout', terminal)
        assert main(['inspect', 'user_model:single', *arguments]) == 0
        assert ('\x1b[' in terminal.getvalue()) == coloured
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stdout', terminal)
    main(['inspect', 'user_model:single', '--json'])
    assert '\x1b' not in terminal.getvalue()


# ---------------------------------------------------------------- what fails


def test_a_weight_that_cannot_learn(inspect):
    code, out, _ = inspect('user_model:forgetful', '--level', 'error')
    assert code == 1
    assert 'ETC208 error' in out
    assert inspect('user_model:forgetful', '--json')[0] == 1


@pytest.mark.parametrize('flags', [[], ['--json']])
def test_a_step_that_cannot_be_traced(inspect, flags):
    code, out, err = inspect('user_model:broken', *flags)
    assert code == 1
    assert 'return self.rnn(x) @ jnp.ones((3, 3))  # the line of the user' in err
    assert 'contracting dimensions' in err
    # the lines of the libraries in between, and their own remarks, are left out
    assert err.count('File "') == 1
    assert 'For simplicity' not in err
    assert 'pass --batch N' in err
    if flags:
        assert 'contracting dimensions' in json.loads(out)['error']
    else:
        assert out == ''


def test_a_batch_size_that_is_missing_or_another_one(inspect):
    code, _, err = inspect('user_model:example')
    assert code == 1
    assert 'ETC603' in err
    assert 'pass --batch N' in err
    code, _, err = inspect('user_model:example', '--batch', '6')
    assert code == 1
    assert 'got (5,); expected (6,)' in err
    assert 'pass --batch N' not in err


@pytest.mark.parametrize('flags', [[], ['--json']])
def test_a_model_that_the_compiler_refuses(inspect, flags):
    code, out, err = inspect('user_model:writing', *flags)
    assert code == 1
    assert '`leak` is a parameter that the step writes' in err
    assert 'ETC103' in err
    assert 'user_model.py:' in err
    if flags:
        assert 'ETC103' in json.loads(out)['error']


def test_a_model_with_nothing_to_train_is_shown_and_refused(inspect):
    code, out, err = inspect('user_model:untrainable')
    assert code == 1
    assert 'Hidden groups:' in out
    assert 'ETA104' in err
    _, out, _ = inspect('user_model:untrainable', '--json')
    assert 'ETA104' in json.loads(out)['error']


# ---------------------------------------------------------------- what is asked wrongly


@pytest.mark.parametrize(
    ('target', 'text'),
    [
        ('user_model', r'`user_model` is not module:factory: got user_model; .*[ETA511]'),
        (':example', r'`:example` is not module:factory: got :example; .*[ETA511]'),
        ('user_model:', r'`user_model:` is not module:factory: .*[ETA511]'),
        ('user_model:nope', "got no 'nope'; .*The names there: Net, .*[ETA512]"),
        ('user_model:exampel', "got no 'exampel'; .*The names there: example. [ETA512]"),
        ('user_model:Space.nope', "got no 'nope'; .*The names there: example.*[ETA512]"),
        ('no_such_module:f', '`no_such_module` is not a module that Python finds: .*[ETA513]'),
        ('no_such.module:f', "got no module named 'no_such'; .*[ETA513]"),
        ('user_model.sub:f', "got no module named 'user_model.sub'; .*[ETA513]"),
        ('user_model:number', 'does not give a model: got int 3; .*[ETA514]'),
        ('user_model:inputs_alone', 'does not give a model: got tuple .*[ETA514]'),
        ('user_model:net', 'does not give a model: got Net; .*[ETA514]'),
        ('user_model:leaving', '`user_model:leaving` fails: got SystemExit: gone; .*[ETA515]'),
    ],
)
def test_targets_that_cannot_be_used(inspect, target, text):
    code, out, err = inspect(target)
    assert code == 2
    assert out == ''
    assert err.split('etrace inspect: ')[1]
    for part in text.split('.*'):
        assert part in err


def test_a_factory_that_raises_shows_its_line(inspect):
    code, _, err = inspect('user_model:raising')
    assert code == 2
    assert "raise RuntimeError('no luck')  # the line that fails" in err
    assert err.count('File "') == 2
    assert err.rstrip().endswith('RuntimeError: no luck')
    assert 'ETA515' in err


@pytest.mark.parametrize(
    ('code', 'shown'),
    [
        ('import no_such_module_at_all', 'import no_such_module_at_all'),
        ('def f(:\n    pass', 'def f(:'),
        ('x = 1\nx.nope', 'x.nope'),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_line(inspect, folder, code, shown):
    (folder / 'user_broken.py').write_text(code)
    exit_code, _, err = inspect('user_broken:example')
    assert exit_code == 2
    assert '`user_broken` cannot be imported' in err
    assert shown in err
    assert err.count('File "') == 1
    assert 'ETA515' in err


def test_a_weight_that_does_not_exist(inspect):
    code, out, err = inspect('user_model:single', '--weight', 'rnn.Wz')
    assert code == 2
    assert out == ''
    assert '`rnn.Wz` is not a parameter of this model' in err
    assert 'rnn.Wrz.weight' in err
    assert 'ETA516' in err


def test_a_picture_that_cannot_be_written(inspect):
    code, out, err = inspect('user_model:single', '--svg', 'no/such/folder/graph.svg')
    assert code == 2
    assert out == ''
    assert '`no/such/folder/graph.svg` cannot be written: got FileNotFoundError' in err
    assert 'ETA517' in err


@pytest.mark.parametrize('budget', ['lots', '-1'])
def test_a_budget_that_is_none(inspect, budget):
    code, _, err = inspect('user_model:single', f'--budget={budget}')
    assert code == 2
    assert 'ETA501' in err


@pytest.mark.parametrize(
    'arguments', [[], ['m:f', '--batch', '0'], ['m:f', '--batch', 'x'], ['m:f', '--level', 'loud']]
)
def test_a_wrong_call_explains_itself(folder, capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(['inspect', *arguments])
    assert left.value.code == 2
    assert 'usage: etrace inspect' in capsys.readouterr().err


def test_the_model_is_not_run(folder, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError('states were initialised for real')

    (folder / 'user_large.py').write_text(
        'import etrace_nn, jax, jax.numpy as jnp\n'
        'def example():\n'
        '    cell = etrace_nn.GRUCell(1000, 500)\n'
        '    return cell, jax.ShapeDtypeStruct((10_000, 1000), jnp.float64)\n'
    )
    monkeypatch.setattr(brainstate.random, 'seed_context', refuse)
    assert main(['inspect', 'user_large:example', '--batch', '10000']) == 0
    assert '60.0 GB' in capsys.readouterr().out

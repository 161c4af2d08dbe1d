"""Four formats of one picture: well formed, in agreement, and readable where they are drawn."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings

from etrace_compiler import compile_etrace_graph, draw
from etrace_compiler.drawing import describe
from etrace_compiler.drawing._text import headline, label_of, rows_of

from . import drawn, models
from .test_random_models import Scripted, scripts

SVG = '{http://www.w3.org/2000/svg}'


@pytest.fixture(params=sorted(drawn.GRAPHS))
def graph(request):
    return drawn.GRAPHS[request.param]()


# The drawing


def rectangle(element):
    """Left, top, right and bottom of a rectangle."""
    x, y, width, height = (float(element.get(k)) for k in ('x', 'y', 'width', 'height'))
    return x, y, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def points_of(path):
    """Points along a path of straight lines and curves."""
    points = []
    for letter, numbers in re.findall(r'([MVC])([^MVC]*)', path):
        values = [float(n) for n in numbers.split()]
        if letter == 'M':
            points.append(tuple(values))
        elif letter == 'V':
            (x, y), (end,) = points[-1], values
            points += [(x, y + (end - y) * i / 20) for i in range(1, 21)]
        else:
            (x0, y0), (x1, y1, x2, y2, x3, y3) = points[-1], values
            for i in range(1, 21):
                t, s = i / 20, 1 - i / 20
                weights = s**3, 3 * s * s * t, 3 * s * t * t, t**3
                points.append(
                    (
                        sum(w * x for w, x in zip(weights, (x0, x1, x2, x3), strict=True)),
                        sum(w * y for w, y in zip(weights, (y0, y1, y2, y3), strict=True)),
                    )
                )
    return points


def inside(point, box, rim=1.5):
    x, y = point
    return box[0] + rim < x < box[2] - rim and box[1] + rim < y < box[3] - rim


def classes(root, name):
    return [g for g in root.iter(f'{SVG}g') if name in g.get('class', '').split()]


def text_extent(text, size):
    """Where a text begins and ends in the widest of the fonts that are asked for."""
    x, width = float(text.get('x')), 0.602 * size * len(text.text)
    anchor = text.get('text-anchor', 'start')
    start = {'start': x, 'middle': x - width / 2, 'end': x - width}[anchor]
    return start, start + width


def check_drawing(svg):
    """Boxes and labels stand apart, texts stay inside of them, edges go around them."""
    root = ET.fromstring(svg)
    width, height = float(root.get('width')), float(root.get('height'))
    boxes = [rectangle(g.find(f'{SVG}rect')) for g in classes(root, 'node')]
    labels = [rectangle(g.find(f'{SVG}rect')) for g in classes(root, 'label')]
    for a, b in combinations([*boxes, *labels], 2):
        assert not overlap(a, b)
    for left, top, right, bottom in [*boxes, *labels]:
        assert min(left, top, width - right, height - bottom) >= 0
    for group in [*classes(root, 'node'), *classes(root, 'label'), *classes(root, 'legend')]:
        left, _, right, bottom = rectangle(group.find(f'{SVG}rect'))
        rows = {}
        for text in group.iter(f'{SVG}text'):
            size = float(text.get('font-size') or group.get('font-size') or root.get('font-size'))
            text.set('text-anchor', text.get('text-anchor') or group.get('text-anchor') or 'start')
            start, end = text_extent(text, size)
            assert left + 2 < start < end < right - 2, text.text
            assert float(text.get('y')) < bottom - 3
            rows.setdefault(text.get('y'), []).append((start, end))
        for found in rows.values():
            assert all(a[1] + 5 < b[0] for a, b in pairwise(sorted(found)))
    ways = [points_of(edge.find(f'{SVG}path').get('d')) for edge in classes(root, 'edge')]
    for points in ways:
        assert not any(inside(point, box) for point in points for box in boxes)
    for label in labels:  # its own edge runs below it, and no other
        assert sum(any(inside(point, label) for point in points) for points in ways) <= 1


def test_a_drawing_is_readable(graph):
    check_drawing(draw(graph))


@given(scripts)
@settings(max_examples=10)
def test_the_drawing_of_a_random_model_is_readable(script):
    model = models.ready(Scripted(script))
    graph = compile_etrace_graph(model, models.random(2, 3), include_hidden_perturb=False)
    check_drawing(draw(graph))


def test_the_checks_of_a_drawing_see_what_is_wrong():
    svg = draw(drawn.compiled(drawn.Stack()))
    check_drawing(svg)
    root = ET.fromstring(svg)
    first, second = (g.find(f'{SVG}rect') for g in classes(root, 'node')[:2])
    x = float(first.get('x')) + 20
    for wrong in (
        svg.replace('rnn1.h', 'rnn1.h' + 'x' * 40),
        svg.replace(f'y="{second.get("y")}"', f'y="{first.get("y")}"'),
        re.sub(r'(class="edge flow"><path d="M)[\d.]+ [\d.]+V', rf'\g<1>{x} 10V', svg, count=1),
    ):
        assert wrong != svg
        with pytest.raises(AssertionError):
            check_drawing(wrong)


def test_a_drawing_names_itself_and_leaves_the_page_alone(graph):
    svg = draw(graph)
    root = ET.fromstring(svg)
    assert root.find(f'{SVG}title').text == root.get('aria-label')
    assert not list(root.iter(f'{SVG}style'))
    assert not [e for e in root.iter() if 'id' in e.attrib or 'url(' in ''.join(e.attrib.values())]
    assert '\n\n' not in svg  # a blank line would end it inside of a page of Markdown


def test_what_is_cut_is_dashed_and_has_words():
    root = ET.fromstring(draw(drawn.compiled(drawn.Stack())))
    for edge in classes(root, 'edge'):
        dashed = 'stroke-dasharray' in edge.find(f'{SVG}path').attrib
        assert dashed == ('cut' in edge.get('class'))
    words = [[t.text for t in g.iter(f'{SVG}text')] for g in classes(root, 'label')]
    assert [first for first, _ in words] == ['cut: matmul'] * 2
    assert [re.sub(r'\d+', '', second) for _, second in words] == ['models.py:', 'drawn.py:']


def test_layers_stand_below_each_other():
    root = ET.fromstring(draw(drawn.compiled(drawn.Stack())))
    top = {g.get('data-id'): rectangle(g.find(f'{SVG}rect'))[1] for g in classes(root, 'node')}
    order = 'input operator:rnn1 group:0 operator:rnn2 group:1 operator:out output'
    assert sorted(top, key=top.get) == order.split()


# All formats


def test_all_formats_hold_every_box_and_every_edge(graph):
    picture = describe(graph)
    root = ET.fromstring(draw(graph, 'svg'))
    assert len(classes(root, 'node')) == len(picture.nodes)
    assert len(classes(root, 'edge')) == len(picture.edges)
    texts = [
        *(text for node in picture.nodes for row in rows_of(node) for text in row),
        *(text for node in picture.nodes for text in headline(node)),
        *(line for edge in picture.edges for line in label_of(edge)),
    ]
    shown = {t.text for t in root.iter(f'{SVG}text')}
    assert set(filter(None, texts)) <= shown

    dot = draw(graph, 'dot')
    assert len(re.findall(r'^  "(?:[^"\\]|\\.)*" \[', dot, re.M)) == len(picture.nodes)
    assert len(re.findall(r'^  "(?:[^"\\]|\\.)*" -> "', dot, re.M)) == len(picture.edges)
    assert all(text.replace('\\', '\\\\').replace('"', '\\"') in dot for text in texts)

    mermaid = draw(graph, 'mermaid')
    assert len(re.findall(r'^  n\d+[\[(]', mermaid, re.M)) == len(picture.nodes)
    assert len(re.findall(r'^  n\d+ [-=.]', mermaid, re.M)) == len(picture.edges)
    read = re.sub(r'#(\d+);', lambda m: chr(int(m[1])), mermaid)
    assert all(text in read for text in texts)


def test_json_is_the_picture_itself(graph):
    text = draw(graph, 'json')
    content = json.loads(text)
    assert (content.pop('format'), content.pop('version')) == ('etrace-picture', 1)
    assert content == json.loads(json.dumps(asdict(describe(graph))))
    assert sorted(content) == ['edges', 'nodes']


LINE = re.compile(
    r"""(?x) flowchart\ TB
    | \ \ accTitle:\ [^#;{}]+
    | \ \ n\d+ (?: \(\["[^"]*"\]\) | \["[^"]*"\] | \("[^"]*"\) ) :::etrace_[a-z]+
    | \ \ n\d+\ (?: --> | ==> | --o | -\.-> ) (?: \|"[^"]*"\| )? \ n\d+
    | \ \ classDef\ etrace_[a-z]+\ \S.*
    | \ \ linkStyle\ \d+(?:,\d+)*\ \S.*"""
)


def test_every_line_of_mermaid_is_one_of_its_statements(graph):
    mermaid = draw(graph, 'mermaid')
    assert [line for line in mermaid.splitlines() if not LINE.fullmatch(line)] == []
    links = sorted(int(n) for found in re.findall(r'linkStyle (\S+)', mermaid)
                   for n in found.split(','))  # fmt: skip
    assert links == list(range(len(describe(graph).edges)))
    texts = re.findall(r'"([^"]*)"', mermaid)
    plain = [re.sub(r'#\d+;|<br/>|</?b>', '', text) for text in texts]
    assert not [text for text in plain if set(text) & set('#;<>&`|[]{}"\\')]


@pytest.mark.skipif(shutil.which('dot') is None, reason='Graphviz is not installed')
def test_graphviz_reads_dot(graph):
    run = subprocess.run(
        ['dot', '-Tplain'], input=draw(graph, 'dot'), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert len(re.findall(r'^node ', run.stdout, re.M)) == len(describe(graph).nodes)


@pytest.mark.parametrize('format', ['svg', 'dot', 'mermaid', 'json'])
def test_odd_names_stay_what_they_are(format):
    text = draw(drawn.compiled(drawn.OddNames()), format)
    if format == 'json':
        names = {item['name'] for node in json.loads(text)['nodes'] for item in node['items']}
        assert f'out.{drawn.ODD}' in names
    elif format == 'svg':
        shown = {t.text for t in ET.fromstring(text).iter(f'{SVG}text')}
        assert drawn.ODD.replace('\n', ' ') in shown


def test_the_text_does_not_depend_on_the_process():
    program = (
        'from hashlib import sha256; from packages_tests import drawn\n'
        'from etrace_compiler import draw\n'
        'graph = drawn.compiled(drawn.EveryFate())\n'
        'print([sha256(draw(graph, f).encode()).hexdigest() '
        "for f in ('svg', 'dot', 'mermaid', 'json')])"
    )
    program = program.replace('packages_tests', Path(__file__).parent.name)
    found = set()
    for seed in ('1', '2'):
        env = os.environ | {'PYTHONHASHSEED': seed, 'JAX_PLATFORMS': 'cpu'}
        env['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        run = subprocess.run(
            [sys.executable, '-c', program], env=env, capture_output=True, text=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1

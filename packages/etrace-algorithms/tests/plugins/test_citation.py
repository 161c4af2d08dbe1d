"""BibTeX of learners: what authors wrote, or what can be read from a reference."""

import re

import pytest

from etrace_algorithms.plugins import LearnerSpec, LearnerSpecError, Origin, cite


def spec(reference='none', **more):
    return LearnerSpec(
        'a_rule', 'A rule.', 'operator:pos', 'approximate', 'O(1)', reference, **more
    )


def fields(reference):
    entry = cite(spec(reference))
    head, *lines, end = entry.splitlines()
    assert end == '}'
    found = [re.fullmatch(r'  (\w+) = \{(.*)\},', line) for line in lines]
    return head, {m[1]: m[2] for m in found}


def test_an_article_is_recognised():
    head, found = fields(
        'Williams, R. J. & Zipser, D. (1989), A learning algorithm, with commas, Neural '
        'Computation 1(2):270-280, doi:10.1162/neco.1989.1.2.270; after others (1980), Else.'
    )
    assert head == '@article{a_rule1989,'
    assert found == {
        'author': 'Williams, R. J. and Zipser, D.',
        'title': 'A learning algorithm, with commas',
        'journal': 'Neural Computation',
        'volume': '1',
        'number': '2',
        'pages': '270--280',
        'year': '1989',
        'doi': '10.1162/neco.1989.1.2.270',
    }


def test_pages_may_be_a_number_of_the_article():
    _, found = fields('Murray (2019), Local learning, eLife 8:e43299, doi:10.7554/eLife.43299')
    assert (found['journal'], found['volume'], found['pages']) == ('eLife', '8', 'e43299')


@pytest.mark.parametrize(
    ('reference', 'link'),
    [
        ('Tallec and Ollivier (2017), A title, arXiv:1702.05043', ('eprint', '1702.05043')),
        ('Tallec, Ollivier (2017). A title. https://arxiv.org/abs/1702.05043.', None),
        ('Tallec & Ollivier (2017), A title, arXiv:1702.05043', ('archiveprefix', 'arXiv')),
        ('Tallec & Ollivier (2017): A title, https://doi.org/10.1000/a_b.', ('doi', '10.1000/a_b')),
    ],
)
def test_anything_else_is_misc_with_its_link(reference, link):
    head, found = fields(reference)
    assert head == '@misc{a_rule2017,'
    assert (found['author'], found['title']) == ('Tallec and Ollivier', 'A title')
    name, value = link or ('eprint', '1702.05043')
    assert found[name] == value


def test_what_has_no_author_and_year_is_a_title():
    assert fields('100% unpublished {notes}') == (
        '@misc{a_rule,',
        {'title': r'100\% unpublished notes', 'note': 'A rule.'},
    )
    entry = cite(spec('doi:10.1000/x', origin=Origin('etrace-a', '1.2', 'a')))
    assert 'title = {doi:10.1000/x},' in entry
    assert 'note = {Learning rule a\\_rule of etrace-a 1.2},' in entry


def test_what_the_author_wrote_is_returned():
    assert cite(spec(bibtex='\n@misc{x, title={y}}\n')) == '@misc{x, title={y}}'


@pytest.mark.parametrize('bibtex', ['x', '@misc{x', '@misc{x\x1b}', 3, None])
def test_what_is_no_bibtex_is_refused(bibtex):
    with pytest.raises(LearnerSpecError, match=r'`LearnerSpec.bibtex` is not valid'):
        spec(bibtex=bibtex)

"""How to cite a learner: the BibTeX of its author, or one that is made of its reference."""

import re

from etrace_algorithms.plugins.records import name_key
from etrace_algorithms.plugins.spec import LearnerSpec

__all__ = ['cite']

_DOI = re.compile(r'(?:doi:|https?://(?:dx\.)?doi\.org/)\s*(10\.\d{4,9}/[^\s;,]+)', re.IGNORECASE)
_ARXIV = re.compile(
    r'(?:arxiv:|https?://arxiv\.org/abs/)\s*(\d{4}\.\d{4,5}|[a-z.-]+/\d{7})', re.IGNORECASE
)
_HEAD = re.compile(r'(?P<author>[^()]+?),? \((?P<year>\d{4})[a-z]?\)[,.:]? (?P<rest>.+)')
_JOURNAL = re.compile(
    r'(?P<title>.+?)[,.] (?P<journal>[^,.\d]+?),? (?P<volume>\d+)(?:\((?P<number>\d+)\))?'
    r'[:,] ?(?P<pages>e?\d+(?:-+\d+)?)'
)
_VERBATIM = ('doi', 'eprint')
_INITIALS = re.compile(r'(?:[A-Z]\.[ -]?)+')


def cite(spec: LearnerSpec) -> str:
    """Return the BibTeX entries of a learner.

    What its author wrote is returned as it is. Without that, an entry is made of the first
    publication in `reference`, as far as that can be read: `@article` where a journal with volume
    and pages is found, else `@misc`, with the DOI or arXiv number.

    Example:
        >>> spec = LearnerSpec(
        ...     name='eprop', summary='e-prop.', factory='operator:pos', exactness='approximate',
        ...     memory='O(1)', reference='Bellec et al. (2020), A solution to the learning dilemma '
        ...     'for recurrent networks of spiking neurons, Nature Communications 11:3625, '
        ...     'doi:10.1038/s41467-020-17236-y')
        >>> print(cite(spec))
        @article{eprop2020,
          author = {Bellec and others},
          title = {A solution to the learning dilemma for recurrent networks of spiking neurons},
          journal = {Nature Communications},
          volume = {11},
          pages = {3625},
          year = {2020},
          doi = {10.1038/s41467-020-17236-y},
        }
    """
    if spec.bibtex:
        return spec.bibtex.strip()
    first = spec.reference.split(';')[0].strip()
    fields = _links(first)
    plain = _ARXIV.sub('', _DOI.sub('', first)).strip(' ,.')
    if head := _HEAD.fullmatch(plain):
        fields = {**_described(head['rest']), 'year': head['year'], **fields}
        fields = {'author': _authors(head['author']), **fields}
    else:
        note = f'Learning rule {spec.name} of {spec.origin}' if spec.origin else spec.summary
        fields = {'title': plain or spec.reference, 'note': note, **fields}
    kind = 'article' if 'journal' in fields else 'misc'
    key = name_key(spec.name) + fields.get('year', '')
    fields = {n: v if n in _VERBATIM else _escape(v) for n, v in fields.items()}
    lines = [f'  {name} = {{{value}}},' for name, value in fields.items()]
    return '\n'.join([f'@{kind}{{{key},', *lines, '}'])


def _links(text: str) -> dict[str, str]:
    doi, arxiv = _DOI.search(text), _ARXIV.search(text)
    fields = {'doi': doi[1].rstrip('.')} if doi else {}
    return fields | ({'eprint': arxiv[1], 'archiveprefix': 'arXiv'} if arxiv else {})


def _described(rest: str) -> dict[str, str]:
    """Split what follows the year; where no journal is recognised, all of it is the title."""
    if found := _JOURNAL.fullmatch(rest.strip(' ,.')):
        fields = {name: value for name, value in found.groupdict().items() if value}
        return fields | {'pages': re.sub('-+', '--', found['pages'])}
    return {'title': rest.strip(' ,.')}


def _authors(text: str) -> str:
    """Separate authors as BibTeX wants them; initials stay with the name before them."""
    text = re.sub(r',? et al\.?$', ' & others', text.strip())
    parts = re.split(r'\s*(?:,|&|\band\b)\s*', text)
    names: list[str] = []
    for part in filter(None, parts):
        if names and _INITIALS.fullmatch(part):
            names[-1] += f', {part}'
        else:
            names.append(part)
    return ' and '.join(names)


def _escape(text: str) -> str:
    """Escape what TeX would take for commands; braces are taken out, as they may not match."""
    return re.sub(r'(?<!\\)([&%#_])', r'\\\1', text.replace('{', '').replace('}', ''))

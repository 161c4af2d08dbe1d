"""A picture as JSON."""

import json
from dataclasses import asdict

from etrace_compiler.drawing._picture import Picture

__all__ = ['write_json']


def write_json(picture: Picture) -> str:
    """Write a picture as JSON: the fields of `Node`, `Item`, `Edge` and `Cut`, by name."""
    content = {'format': 'etrace-picture', 'version': 1, **asdict(picture)}
    return json.dumps(content, indent=1, ensure_ascii=False)

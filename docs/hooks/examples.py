"""Read a docstring's `Example:` as the section that holds doctests."""

import re

import griffe


class Examples(griffe.Extension):
    """Give the section the one name under which the parser knows it."""

    def on_object(self, *, obj, **kwargs):
        """Run by griffe for every object that it has read."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r'(?m)^Example:$', 'Examples:', obj.docstring.value
            )

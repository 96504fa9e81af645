"""Pages of which a part is made: what stands between two marks is written anew."""

import re
from collections.abc import Mapping

_PART = re.compile(r"<!-- made: (.+?) -->\n(?:.*?\n)??<!-- end -->", re.DOTALL)


def renewed(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with parts of now in place of those that it has.

    A part called ``x`` stands between ``<!-- made: x -->`` and ``<!-- end -->``.

    Args:
        page: Markdown.
        parts: Markdown by name; a page need not have all, nor only these.
    """

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in parts:
            return found[0]
        return f"<!-- made: {name} -->\n\n{parts[name]}\n\n<!-- end -->"

    return _PART.sub(part, page)

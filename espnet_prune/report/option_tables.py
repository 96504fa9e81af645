"""The options of a recipe's sections as tables, from the dataclasses that read them."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from espnet_prune.report.rendering import Table

# These match a docstring without its indentation: names, and what is said of them.
_ARGS = re.compile(r"^Args:\n(.*?)(?=^\w|\Z)", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(
    r"^ {4}(\w+(?:, \w+)*): (.*?)(?=^ {4}\w|\Z)", re.DOTALL | re.MULTILINE
)


def option_table(options: type) -> str:
    """Write a table of names, defaults and meanings.

    Args:
        options: a dataclass whose docstring tells its options under ``Args:``.
    """
    defaults = dataclasses.asdict(options())
    lines = []
    for names, meaning in told(options):
        shown = (_written(defaults[name]) for name in names)
        keys = ", ".join(f"`{name}`" for name in names)
        lines.append([keys, ", ".join(shown), meaning])
    table = Table(["key", "default", "meaning"], lines).markdown()
    return table.replace("| --- | ---: | ---: |", "|---|---|---|").rstrip()


def told(options: type) -> Iterator[tuple[list[str], str]]:
    """Yield what the docstring says of each option, or of several at once."""
    args = _ARGS.search(inspect.getdoc(options))
    for names, text in _OPTION.findall(args[1]):
        words = " ".join(text.split()).replace("``", "`").rstrip(".")
        yield names.split(", "), words.replace("|", "\\|")


def _written(value: Any) -> str:
    """Write a default as YAML has it; names as code."""
    if value is None:
        return "none"
    return f"`{value}`" if isinstance(value, str) else json.dumps(value)

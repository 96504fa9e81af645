"""Check options that are ESPnet's own before hours of work, by its own parser."""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.training.recipe import OWN_KEYS

# As 2e-3, which has no point.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


# ESPnet's parser would not let these be none, its tasks do: features, or none wanted.
_NONE = "frontend", "encoder"


class OneLineParser(argparse.ArgumentParser):
    """A parser whose ``prog`` is the option of ours that holds the command line."""

    def error(self, message: str):
        raise InputError(self.prog, message.splitlines()[0])


def check_options(where: str, options: Sequence[str]) -> None:
    """Refuse what ESPnet's training would.

    Args:
        where: the option that holds them.
        options: a command line.

    Raises:
        InputError: an option that there is not, or of a wrong value.
    """
    for option in options:
        name, equals, value = option.rpartition("=")
        if equals and not name.startswith("-"):  # KEY=VALUE, which YAML reads
            if isinstance(yaml.safe_load(value), str):
                refuse_number(where, name, value)
    unknown = parser_for(where).parse_known_args(options)[1]
    if unknown:
        first = unknown[0]
        mend = nearest(first.lstrip("-"), "--")
        if not first.startswith("-"):
            mend = "give every KEY=VALUE an option of its own, as --distill layers=2"
        raise InputError(where, f"no option {first!r}", mend)


def check_config(source: object, config: Mapping[str, Any]) -> None:
    """Refuse a key that ESPnet has not, or a value it would not take as an option.

    ESPnet itself takes any value from a config, and ends in a traceback later.

    Args:
        source: the config.
        config: its content, without keys of ours.

    Raises:
        InputError: names the option, and what it may be.
    """
    known = {action.dest for action in espnet_parser()._actions}
    for key in sorted(config.keys() - known):
        raise InputError(source, f"no option {key!r}", nearest(key))
    words = []
    for action in espnet_parser()._actions:
        value = config.get(action.dest)
        if value == action.default or action.nargs == 0 or action.dest == "config":
            continue
        if action.dest in _NONE and value in (None, "none"):
            continue
        if isinstance(action.default, dict):
            if not isinstance(value or {}, Mapping):
                what = f"{action.dest} must hold options, not {value!r}"
                raise InputError(source, what, "write KEY: VALUE lines below it")
        elif action.dest in config and not isinstance(value, Mapping):
            option, texts = action.option_strings[0], _texts(value)
            if action.nargs is not None:
                words += [option, *texts]
            else:
                words += [f"{option}={text}" for text in texts]
    parser_for(source).parse_args(words)


def refuse_number(source: object, name: str, text: str) -> None:
    """Raise InputError for a text that is a number, which ESPnet does not make of it.

    Args:
        source: a file, or the option that holds the text.
        name: of the option.
        text: what YAML reads as a text: ``2e-3``, or a number in quotes.
    """
    if _NUMBER.fullmatch(text):
        quoted = text if isinstance(yaml.safe_load(text), str) else f'"{text}"'
        number = f"{float(text):.12f}".rstrip("0").rstrip(".")
        what = f"{name}: {quoted} is a text to YAML, not a number"
        raise InputError(source, what, f"write {number}")


def nearest(name: str, dashes: str = "") -> str:
    """Find a mend for a misspelled name."""
    known = [*OWN_KEYS, *(action.dest for action in espnet_parser()._actions)]
    found = difflib.get_close_matches(name, known, n=1)
    return f"is it {dashes}{found[0]}?" if found else "leave it out"


def parser_for(source: object) -> argparse.ArgumentParser:
    """Make the parser of stages 10, 11, 12 and 14 name a file or option in errors."""
    parser = espnet_parser()
    parser.error = OneLineParser(prog=str(source)).error
    return parser


def espnet_parser() -> argparse.ArgumentParser:
    """Make ESPnet's parser of a training, which keeps what a config sets."""
    import espnet_prune.base.quiet  # noqa: F401  (before anything else of ESPnet)
    from espnet_prune.training.task import DenseASRTask

    return DenseASRTask.get_parser()


def _texts(value: Any) -> list[str]:
    """Write a value as the words of a command line; a list is a word an item."""
    if not isinstance(value, list | tuple):
        return ["null" if value is None else str(value)]
    return [",".join(map(str, v)) if isinstance(v, list) else str(v) for v in value]

"""Check options that are ESPnet's own before hours of work, by its own parser.

The parser takes seconds to import, so it is asked only about what is not known here.
"""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_prune.base.errors import InputError
from espnet_prune.training.recipe import OWN_KEYS

NUMBERS = ("max_epoch", "seed", "keep_nbest_models", "batch_bins", "accum_grad")
DICTIONARIES = ("encoder_conf", "frontend_conf", "optim_conf")
OTHERS = ("batch_type", "log_interval", "num_att_plot", "best_model_criterion")
OTHERS += ("num_workers", "use_amp")
# As 2e-3, which has no point.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
KNOWN = {*NUMBERS, *DICTIONARIES, *OTHERS}


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
            refuse_number(where, name, value)
    parser = OneLineParser(prog=where, add_help=False, allow_abbrev=False)
    for name in NUMBERS:
        parser.add_argument(f"--{name}", type=int)
    for name in DICTIONARIES:
        parser.add_argument(f"--{name}", action=NestedDictAction, default={})
    rest = parser.parse_known_args(options)[1]
    if not rest:
        return
    espnet = espnet_parser()
    espnet.error = OneLineParser(prog=where).error
    unknown = espnet.parse_known_args(rest)[1]
    if unknown:
        first = unknown[0]
        mend = nearest(first.lstrip("-"), "--")
        if not first.startswith("-"):
            mend = "give every KEY=VALUE an option of its own, as --distill layers=2"
        raise InputError(where, f"no option {first!r}", mend)


def check_keys(source: object, keys: Iterable[str]) -> None:
    """Raise InputError for a key of a config that is none of ESPnet's training."""
    unknown = {*keys} - KNOWN
    if not unknown:
        return
    known = {action.dest for action in espnet_parser()._actions}
    for key in sorted(unknown - known):
        raise InputError(source, f"no option {key!r}", nearest(key))


def refuse_number(source: object, name: str, text: str) -> None:
    """Raise InputError for a number that YAML, and so ESPnet, reads as a text."""
    if _NUMBER.fullmatch(text) and isinstance(yaml.safe_load(text), str):
        what = f"{name}: {text} is a text to YAML, not a number"
        raise InputError(source, what, f"write {float(text):.12f}".rstrip("0"))


def nearest(name: str, dashes: str = "") -> str:
    """Find a mend for a misspelled name."""
    known = [*OWN_KEYS, *(action.dest for action in espnet_parser()._actions)]
    found = difflib.get_close_matches(name, known, n=1)
    return f"is it {dashes}{found[0]}?" if found else "leave it out"


@cache
def espnet_parser() -> argparse.ArgumentParser:
    """Make the parser of stages 11, 12 and 14."""
    import espnet_prune.base.quiet  # noqa: F401  (before anything else of ESPnet)
    from espnet_prune.training.task import PruneASRTask

    return PruneASRTask.get_parser()

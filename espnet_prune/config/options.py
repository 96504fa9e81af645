"""Make the options of a recipe's section from what a user wrote."""

import typing
from dataclasses import fields
from typing import Any, TypeVar

from espnet_prune.base.errors import OptionError

T = TypeVar("T")


def make_options(kind: type[T], section: str, values: dict[str, Any] | None) -> T:
    """Make ``kind(**values)``, with names and types checked first.

    Args:
        kind: a dataclass whose annotations are plain types.
        section: its name in a recipe, for messages.

    Raises:
        OptionError: an unknown name, a value of another type, or what ``kind`` refuses.
    """
    check_section(section, values)
    known = typing.get_type_hints(kind)
    for name, value in (values or {}).items():
        if name not in known:
            names = ", ".join(f.name for f in fields(kind))
            raise OptionError(f"{section}: no option {name!r}; there are: {names}")
        if not fits(value, known[name]):
            told = getattr(known[name], "__name__", str(known[name]))
            raise OptionError(
                f"{section}: {name} must be of type {told}, not {value!r}"
            )
    return kind(**(values or {}))


def optimizer_options(conf: dict[str, float]) -> dict[str, float]:
    """Check a student's ``optim_conf``; fill in ``weight_decay`` and ``max_norm``.

    Raises:
        OptionError: an option is missing or unknown, by name.
    """
    options = {"weight_decay": 0.0, "max_norm": 5.0} | dict(conf)
    if "lr" not in options:
        raise OptionError("optim_conf: lr is missing")
    if unknown := options.keys() - {"lr", "weight_decay", "max_norm"}:
        raise OptionError(f"optim_conf: unknown option(s) {sorted(unknown)}")
    for name, value in options.items():
        if not fits(value, float):  # YAML takes 5e-4 for text
            raise OptionError(f"optim_conf: {name} must be a number, not {value!r}")
    return options


def check_section(section: str, values: object) -> None:
    """Raise OptionError unless ``values`` are ``key: value`` lines, or none at all."""
    if not isinstance(values, dict | None):
        raise OptionError(f"{section}: must hold `key: value` lines, not {values!r}")


def fits(value: object, annotation: Any) -> bool:
    """Tell whether a value from YAML is of that type; an int serves as a float."""
    choices = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is dict:
        key, item = choices
        return isinstance(value, dict) and all(
            fits(k, key) and fits(v, item) for k, v in value.items()
        )
    if choices:  # a union
        return any(fits(value, choice) for choice in choices)
    if annotation is float:
        annotation = (float, int)
    return isinstance(value, annotation) and not (
        isinstance(value, bool) and annotation is not bool
    )

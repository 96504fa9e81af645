"""Options of a section of a recipe, from what a user wrote."""

import inspect
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def make_options(
    kind: type[T], section: str, values: dict[str, Any] | None, *given: Any
) -> T:
    """The function returns ``kind(*given, **values)``, its arguments checked first.

    Args:
        kind: a class whose constructor's annotations are plain types. Where it takes
            ``**options``, it refuses unknown ones by itself.
        section: name of the values in a recipe or a config, for messages.
        values: what a user wrote there.
        given: its first arguments, which are not the user's.

    Raises:
        ValueError: an unknown name, a value of another type, or what ``kind`` refuses.
    """
    check_section(section, values)
    types = typing.get_type_hints(kind.__init__)
    own = list(inspect.signature(kind).parameters.values())[len(given) :]
    known = [p.name for p in own if p.kind is not p.VAR_KEYWORD]
    further = len(known) < len(own)  # it takes **options
    for name, value in (values or {}).items():
        if name in known:
            if not fits(value, types[name]):
                told = getattr(types[name], "__name__", str(types[name]))
                what = f"{name} must be of type {told}, not {value!r}"
                raise ValueError(f"{section}: {what}")
        elif not further or name in types or not isinstance(name, str):
            names = ", ".join(known)
            raise ValueError(f"{section}: no option {name!r}; there are: {names}")
    return kind(*given, **(values or {}))


def optimizer_options(conf: dict[str, float]) -> dict[str, float]:
    """``optim_conf`` of a student with its defaults: lr, weight_decay, max_norm.

    Raises:
        ValueError: an option is missing or unknown, by name.
    """
    options = {"weight_decay": 0.0, "max_norm": 5.0} | dict(conf)
    if "lr" not in options:
        raise ValueError("optim_conf: lr is missing")
    if unknown := options.keys() - {"lr", "weight_decay", "max_norm"}:
        raise ValueError(f"optim_conf: unknown option(s) {sorted(unknown)}")
    for name, value in options.items():
        if not fits(value, float):  # YAML takes 5e-4 for text
            raise ValueError(f"optim_conf: {name} must be a number, not {value!r}")
    return options


def check_section(section: str, values: object) -> None:
    """Raises ValueError unless ``values`` are ``key: value`` lines, or none at all."""
    if not isinstance(values, dict | None):
        raise ValueError(f"{section}: must hold `key: value` lines, not {values!r}")


def fits(value: object, annotation: Any) -> bool:
    """The function says whether a value from YAML is of that type.

    An int serves as a float.
    """
    if annotation is Any:
        return True
    choices = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is dict:
        key, item = choices
        return isinstance(value, dict) and all(
            fits(k, key) and fits(v, item) for k, v in value.items()
        )
    if origin is list:
        return isinstance(value, list) and all(fits(v, choices[0]) for v in value)
    if choices:  # a union
        return any(fits(value, choice) for choice in choices)
    if annotation is float:
        annotation = (float, int)
    return isinstance(value, annotation) and not (
        isinstance(value, bool) and annotation is not bool
    )

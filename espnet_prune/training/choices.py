"""Refuse what a recipe, the method and a model cannot do together.

``args`` are those of ``espnet_prune.cli.prune_train``.
"""

import argparse
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.config.methods import METHODS
from espnet_prune.config.sections import (
    BESIDE,
    MODEL_DIM,
    SECTIONS,
    SparsityOptions,
)
from espnet_prune.families.espnet.prunable import check_gates, check_student
from espnet_prune.families.registry import Kind, require
from espnet_prune.pruning.budget import check_groups

# Of a recipe, what can be given on the command line, too.
GIVEN = (*SECTIONS, "optim_conf")


def pruned_beside(recipe: Mapping[str, Any]) -> frozenset[str]:
    """Return those of :data:`BESIDE` that a recipe prunes with the encoder."""
    return frozenset(part for part in BESIDE if recipe.get(f"prune_{part}"))


def check_choices(
    options: SparsityOptions, model_dim: bool, beside: Collection[str]
) -> None:
    """Refuse what contradicts each other, whatever the sizes of the model.

    Args:
        options: what to remove.
        model_dim: whether that has gates.
        beside: of :func:`pruned_beside`.

    Raises:
        OptionError: names the option to change.
    """
    if "latency" in options.kinds and options.denominator == "model":
        raise OptionError(
            "sparsity: latency is that of the encoder; set denominator: encoder, or "
            "another kind"
        )
    if options.model_dim is not None and not model_dim:
        raise OptionError("sparsity: model_dim needs model_dim: true in gates")
    for part in sorted(beside):
        if options.denominator != "model":
            raise OptionError(
                f"sparsity: with prune_{part} the denominator must be model: the "
                f"{part} is no part of the encoder"
            )


def check_method(
    method: str, options: SparsityOptions, beside: Collection[str]
) -> None:
    """Refuse what a baseline cannot do.

    Args:
        method: of ``METHODS``.
        options: what is to be removed.
        beside: of :func:`pruned_beside`.

    Raises:
        InputError: names the method, and what to change.
    """
    if method == "blocks" and beside:
        raise InputError(
            "--method blocks",
            "only an encoder has blocks to drop",
            f"leave out prune_{min(beside)}, or this method",
        )
    if METHODS[method].prunes_as and beside:
        raise InputError(
            f"--method {method}",
            "only an encoder has several sizes in one checkpoint",
            f"leave out prune_{min(beside)}, or this method",
        )
    whole_encoder = options.denominator == "encoder" and not options.groups
    if METHODS[method].heard and options.model_dim:
        raise InputError(
            f"--method {method}",
            "leaves the channels between the layers as they are",
            "leave out sparsity: model_dim",
        )
    simple = METHODS[method].heard or not METHODS[method].gated
    if simple and (not whole_encoder or "latency" in options.kinds):
        raise InputError(
            f"--method {method}",
            "takes a target in params or macs of the whole encoder",
            "choose such a target, or another method",
        )


def check_model(
    config: dict[str, Any],
    source: str | Path,
    args: argparse.Namespace,
    recipe: dict[str, Any],
) -> Kind:
    """Return the kind of a model's encoder, by its config, if it can be pruned so.

    Args:
        config: the model's ``config.yaml``, or that of a training to come.
        source: where it was read, for messages.
        args: the command line.
        recipe: which :func:`settle_options` has completed.

    Raises:
        InputError: the model cannot have gates, or not these.
    """
    beside = pruned_beside(recipe)
    kind = check_student(config, source)
    require_all(kind, args, recipe)
    check_gates(config, source, beside)
    sparsity = SparsityOptions(**recipe["sparsity"])
    with refusing(source_of(args)):
        for part in BESIDE:
            if part in sparsity.groups and part not in beside:
                what = f"sparsity: the group {part} needs prune_{part}: true"
                raise OptionError(what)
        check_groups(sparsity.groups, kind.groups | beside)
    return kind


def require_all(kind: Kind, args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Refuse what method and recipe ask of a kind of encoder that cannot do it.

    Args:
        kind: of the encoder.
        args: the command line.
        recipe: as :func:`read_recipe` gives it.

    Raises:
        InputError: names the method or the recipe, and the mend.
    """
    method, sparsity = METHODS[args.method], recipe.get("sparsity") or {}
    distill, kinds = recipe.get("distill") or {}, str(sparsity.get("kind")).split("+")
    plain, sizes = vars(SparsityOptions()), ("denominator", "macs_tokens")
    asked = {
        "untaught": not method.taught,
        "small": not method.gated,
        "sizes": bool(method.prunes_as),
        "heard": method.heard,
        "outputs": distill.get("output_weight", 0) > 0,
        "beyond": any(sparsity.get(n, plain[n]) != plain[n] for n in sizes),
        MODEL_DIM: (recipe.get("gates") or {}).get(MODEL_DIM),
        **dict.fromkeys(pruned_beside(recipe), True),
        "runtime": {"latency", "int8"} & {*kinds, distill.get("precision")},
    }
    for capability in filter(asked.get, asked):
        by_method = capability in ("untaught", "small", "sizes", "heard")
        where = f"--method {args.method}" if by_method else source_of(args)
        require(kind, capability, where)


def source_of(args: argparse.Namespace) -> str:
    """Say where the options of the recipe come from, for messages."""
    given = [f"--{section}" for section in GIVEN if getattr(args, section)]
    return " and ".join([str(args.recipe), *given])


@contextmanager
def refusing(source: str | Path) -> Iterator[None]:
    """The context turns what options refuse into an error of the file they are from.

    It turns nothing else: other errors are defects of ours, and keep their traceback.

    Args:
        source: the file, or the options, for the message.

    Raises:
        InputError: an OptionError was raised inside.
    """
    try:
        yield
    except OptionError as e:
        raise InputError(source, str(e)) from e

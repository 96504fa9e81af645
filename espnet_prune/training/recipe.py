"""Read a recipe, ``conf/prune.yaml``, as a command line and the method change it.

What does not go together is refused here, before any model is looked at. ``args`` are
those of ``espnet_prune.cli.prune_train``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import METHODS, REFERENCE
from espnet_prune.config.options import check_section, make_options, optimizer_options
from espnet_prune.config.sections import (
    BESIDE,
    MODEL_DIM,
    PLANNED,
    SECTIONS,
    DistillOptions,
    GateOptions,
    SparsityOptions,
)
from espnet_prune.training.choices import (
    GIVEN,
    check_choices,
    check_method,
    pruned_beside,
    refusing,
    source_of,
)

# Keys of a recipe that are the project's own.
OWN_KEYS = (*SECTIONS, *(f"prune_{part}" for part in BESIDE), "compact")
# Options of a training that all stages share: none of its own may change them.
SHARED = ("method", "kind", "target", "recipe", "compact", "previous")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command line that say what to make of a recipe."""
    parser.add_argument(
        "--method", choices=METHODS, help="l0, or a baseline; --compact: as it was made"
    )
    parser.add_argument("--recipe", type=Path, required=True, help="conf/prune*.yaml")
    parser.add_argument("--compact", type=Path, help="directory to fine-tune; stage 14")
    parser.add_argument("--previous", type=Path, help="pruning run whose gates go on")
    parser.add_argument("--kind", help="overrides sparsity.kind of the recipe")
    parser.add_argument("--target", type=float, help="overrides sparsity.target")
    add_changes(parser)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a recipe, and no other stage."""
    parser.add_argument("--max_epoch", type=int, help="overrides that of the recipe")
    for section in GIVEN:
        parser.add_argument(
            f"--{section}", action=NestedDictAction, default={}, metavar="KEY=VALUE",
            help="overrides options of the recipe, as often as needed",
        )  # fmt: skip


def settle_method(args: argparse.Namespace) -> None:
    """Complete a command line by its method; what is fine-tuned was made by one."""
    told = {} if args.compact is None else told_of(args.compact)
    args.method = args.method or told.get("method", REFERENCE)


def told_of(compact: Path) -> dict[str, Any]:
    """Read what the export told of a compact model; nothing where that is missing."""
    file = compact / "pruning.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Read ``--recipe`` as the rest of the command line and the method change it.

    Raises:
        InputError: an option, or a method, that there is not, or of a wrong value.
    """
    if args.method not in METHODS:
        known = f"give one of: {', '.join(METHODS)}"
        raise InputError(f"--method {args.method}", "is unknown", known)
    recipe = read_yaml(args.recipe)
    with refusing(args.recipe):
        for section in GIVEN:
            check_section(section, recipe.get(section))
            refuse_planned(recipe.get(section), section, args.recipe)
            refuse_planned(getattr(args, section), section, f"--{section}")
    for part in BESIDE:
        if not isinstance(asked := recipe.get(f"prune_{part}"), bool | None):
            what = f"prune_{part} must be true or false, not {asked!r}"
            raise InputError(args.recipe, what)
    if args.max_epoch is not None:
        if args.max_epoch < 1:
            raise InputError(f"--max_epoch {args.max_epoch}", "must be at least 1")
        recipe["max_epoch"] = args.max_epoch
    for section in GIVEN:
        if given := getattr(args, section):
            if args.compact is not None and section in ("gates", "sparsity"):
                raise InputError(
                    f"--{section}", "belongs to the pruning", "leave it out"
                )
            recipe[section] = (recipe.get(section) or {}) | given
    if not METHODS[args.method].taught:
        untaught = {"layer_weight": 0.0, "output_weight": 0.0}
        recipe["distill"] = (recipe.get("distill") or {}) | untaught
    with refusing(source_of(args)):
        distill = make_options(DistillOptions, "distill", recipe.get("distill"))
        if args.compact is None and distill.precision != "fp32":
            raise OptionError(
                "distill: precision is of the fine-tuning; leave it out of the pruning"
            )
        optimizer_options(recipe.get("optim_conf") or {})
    return recipe


def refuse_planned(given: dict[str, Any] | None, section: str, where: object) -> None:
    """Refuse what the method and the rung before settle.

    Raises:
        InputError: an option of ``sparsity`` that is the plan's.
    """
    for name in PLANNED:
        if section == "sparsity" and name in (given or {}):
            mend = "leave it out: the method and the target before settle it"
            raise InputError(where, f"{section}: {name} is the plan's", mend)


def settle_options(
    args: argparse.Namespace,
    recipe: dict[str, Any],
    start: dict[str, float] | None = None,
) -> SparsityOptions:
    """Complete the recipe's ``gates`` and ``sparsity`` by target, rung and method.

    Args:
        args: the command line.
        recipe: to be completed.
        start: what the run ``--previous`` has removed, if there is one.

    Raises:
        InputError: they contradict each other, or the method cannot do what they ask.
    """
    given = {"kind": args.kind, "target": args.target}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() & args.sparsity.keys():
        mend = f"give --target{'_kind' if name == 'kind' else ''} {args.sparsity[name]}"
        raise InputError("--sparsity", f"{name} is not of one stage alone", mend)
    with refusing(source_of(args)):
        recipe["sparsity"] = (recipe.get("sparsity") or {}) | given
        recipe["gates"] = dict(recipe.get("gates") or {})
        if start is not None:
            recipe["sparsity"]["start"] = start
            if (MODEL_DIM in start) != bool(recipe["gates"].get(MODEL_DIM)):
                had = str(MODEL_DIM in start).lower()
                raise InputError(
                    args.previous,
                    f"was pruned with model_dim: {had} in gates",
                    "go on with the same, or start from the dense model",
                )
            own = read_yaml(args.previous / "config.yaml")["model_conf"]["gates"]
            had = own.get("blocks", False)
            if had != recipe["gates"].get("blocks", False):
                raise InputError(
                    args.previous,
                    f"was pruned with blocks: {str(had).lower()} in gates",
                    "go on with the same, or start from the dense model",
                )
        recipe["sparsity"]["by"] = METHODS[args.method].steering
        if not METHODS[args.method].learned:  # weights as they are, or gone
            recipe["gates"]["mode"] = "straight_through"
        gates = make_options(GateOptions, "gates", recipe["gates"])
        options = make_options(SparsityOptions, "sparsity", recipe["sparsity"])
        beside = pruned_beside(recipe)
        check_choices(options, gates.model_dim, beside)
    check_method(args.method, options, beside)
    return options

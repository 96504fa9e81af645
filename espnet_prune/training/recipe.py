"""Read a recipe, ``conf/prune.yaml``, as a command line and the method change it.

What does not go together is refused here, before any model is looked at. ``args`` are
those of ``espnet_prune.cli.prune_train``.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import METHODS, REFERENCE
from espnet_prune.config.options import check_section, make_options, optimizer_options
from espnet_prune.config.sections import (
    MODEL_DIM,
    PLANNED,
    SECTIONS,
    DistillOptions,
    GateOptions,
    SparsityOptions,
)
from espnet_prune.families.espnet.prunable import check_gates, check_student
from espnet_prune.families.registry import Kind, require
from espnet_prune.pruning.budget import check_groups

# Keys of a recipe that are the project's own.
OWN_KEYS = (*SECTIONS, "prune_decoder", "compact")
# Of a recipe, what can be given on the command line, too.
GIVEN = (*SECTIONS, "optim_conf")
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
    made_by = REFERENCE
    if args.compact is not None and (args.compact / "pruning.json").is_file():
        told = (args.compact / "pruning.json").read_text(encoding="utf-8")
        made_by = json.loads(told)["method"]
    args.method = args.method or made_by


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
    if not isinstance(asked := recipe.get("prune_decoder"), bool | None):
        what = f"prune_decoder must be true or false, not {asked!r}"
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
        recipe["sparsity"]["by"] = METHODS[args.method].steering
        if not METHODS[args.method].learned:  # weights as they are, or gone
            recipe["gates"]["mode"] = "straight_through"
        gates = make_options(GateOptions, "gates", recipe["gates"])
        options = make_options(SparsityOptions, "sparsity", recipe["sparsity"])
        decoder = bool(recipe.get("prune_decoder"))
        check_choices(options, gates.model_dim, decoder)
    check_method(args.method, options, decoder)
    return options


def check_choices(options: SparsityOptions, model_dim: bool, decoder: bool) -> None:
    """Refuse what contradicts each other, whatever the sizes of the model.

    Args:
        options: what to remove.
        model_dim, decoder: whether these have gates.

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
    if decoder and options.denominator != "model":
        raise OptionError(
            "sparsity: with prune_decoder the denominator must be model: the decoder "
            "is no part of the encoder"
        )


def check_method(method: str, options: SparsityOptions, decoder: bool) -> None:
    """Refuse what a baseline cannot do.

    Args:
        method: of ``METHODS``.
        options: what is to be removed.
        decoder: whether the decoder is pruned, too.

    Raises:
        InputError: names the method, and what to change.
    """
    if method == "blocks" and decoder:
        raise InputError(
            "--method blocks",
            "only an encoder has blocks to drop",
            "leave out prune_decoder, or this method",
        )
    whole_encoder = options.denominator == "encoder" and not options.groups
    if not METHODS[method].gated and (not whole_encoder or "latency" in options.kinds):
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
    decoder = bool(recipe.get("prune_decoder"))
    kind = check_student(config, source)
    require_all(kind, args, recipe)
    check_gates(config, source, decoder)
    sparsity = SparsityOptions(**recipe["sparsity"])
    with refusing(source_of(args)):
        if "decoder" in sparsity.groups and not decoder:
            raise OptionError("sparsity: the group decoder needs prune_decoder: true")
        check_groups(sparsity.groups, kind.groups | ({"decoder"} if decoder else set()))
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
        "outputs": distill.get("output_weight", 0) > 0,
        "beyond": any(sparsity.get(n, plain[n]) != plain[n] for n in sizes),
        MODEL_DIM: (recipe.get("gates") or {}).get(MODEL_DIM),
        "decoder": recipe.get("prune_decoder"),
        "runtime": {"latency", "int8"} & {*kinds, distill.get("precision")},
    }
    for capability in filter(asked.get, asked):
        by_method = capability in ("untaught", "small")
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

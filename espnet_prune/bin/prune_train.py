"""Train a student beside its teacher: pruning (stage 12), fine-tuning (stage 14).

Further options are those of ``espnet2.bin.asr_train``.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from espnet_prune.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

import torch
from espnet2.tasks.asr import ASRTask, encoder_choices
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_prune.baselines import METHODS, ONE_SHOT, SCRATCH, UNTAUGHT
from espnet_prune.baselines.one_shot import scores_of, settle
from espnet_prune.budget import MODEL_DIM
from espnet_prune.checkpoint import load_model, read_state, sampling_rate
from espnet_prune.decoder import PrunableTransformerDecoder
from espnet_prune.distill import DistillOptions
from espnet_prune.errors import InputError, run_main
from espnet_prune.export import PROJECTION, check_finished, model_state
from espnet_prune.files import atomic_path, read_yaml, write_text
from espnet_prune.gates import GateOptions
from espnet_prune.measure.cost import rest_cost
from espnet_prune.measure.latency import settle_table, table_of_run
from espnet_prune.measure.latency_layers import Beyond
from espnet_prune.model import OWN_OPTIONS, projects
from espnet_prune.nodes import Node
from espnet_prune.options import make_options
from espnet_prune.origin import (
    refuse_another_run,
    refuse_missing_gpus,
    refuse_multiple_iterator,
    refuse_wrong_rate,
)
from espnet_prune.projection import check_reachable
from espnet_prune.sparsity import Schedule, SparsityOptions, make_budget
from espnet_prune.student import (
    finetuning_config,
    frames_of,
    pruning_config,
    small_config,
)
from espnet_prune.task import PruneASRTask, optimizer_options

# Of a recipe, what can be given on the command line, too.
SECTIONS = ("gates", "sparsity", "distill")
# Of a pruning run, what the next rung of a ladder counts anew.
COUNTERS = "sparsity.step,sparsity.updates"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        allow_abbrev=False,  # ESPnet's --model_conf is not our --model_config
    )
    parser.add_argument("--phase", choices=["prune", "finetune"], required=True)
    parser.add_argument("--method", choices=METHODS, default="l0", help="or a baseline")
    parser.add_argument("--recipe", type=Path, required=True, help="conf/prune*.yaml")
    parser.add_argument(
        "--model_config", type=Path, required=True, help="to start from"
    )
    parser.add_argument("--model_file", type=Path, required=True, help="its weights")
    parser.add_argument("--previous", type=Path, help="pruning run whose gates go on")
    parser.add_argument("--kind", help="overrides sparsity.kind of the recipe")
    parser.add_argument("--target", type=float, help="overrides sparsity.target")
    parser.add_argument("--max_epoch", type=int, help="overrides that of the recipe")
    for section in SECTIONS:
        parser.add_argument(
            f"--{section}", action=NestedDictAction, default={}, metavar="KEY=VALUE",
            help="overrides options of the recipe, as often as needed",
        )  # fmt: skip
    parser.add_argument("--teacher_config", type=Path, help="the teacher's config.yaml")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--final", type=Path, help="where the averaged weights go")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args, training_options = get_parser().parse_known_args(arguments)
    # What is refused below must leave the directory as it was.
    config = args.output_dir / "student.yaml"
    candidate = args.output_dir / "student.new.yaml"
    command = ["--output_dir", str(args.output_dir)]
    if args.teacher_config is not None:
        command += ["--teacher_config", str(args.teacher_config)]
    if args.phase == "prune" and args.previous is not None:
        # Its gates and multipliers go on, its count of the steps does not.
        command += ["--init_param", f"{args.previous / 'latest.pth'}:::{COUNTERS}"]
    elif args.phase == "prune" and args.method not in SCRATCH:
        command += ["--init_param", str(args.model_file)]
    command += training_options
    node = Node(training_options, args.output_dir)
    options = node.first(lambda: settle_plan(args, candidate, config, command))
    command += ["--config", str(config)]
    if args.phase == "prune" and args.method in ONE_SHOT:
        node.first(lambda: prune_at_once(args, command))
        return
    hand_logging_to_espnet()
    PruneASRTask.main(cmd=command)
    if args.final is not None and node.is_first:
        averaged = args.output_dir / averaged_name(options)
        finish(averaged, args.model_config, args.final)


def settle_plan(
    args: argparse.Namespace, candidate: Path, config: Path, command: list[str]
) -> argparse.Namespace:
    """Write the training config once nothing is wrong with it.

    Args:
        args: the command line.
        candidate, config: its name until then, and after.
        command: ESPnet's options.

    Returns:
        the training's options.
    """
    try:
        student = student_config(args)
        text = yaml.safe_dump(student, sort_keys=False, allow_unicode=True)
        write_text(candidate, text)
        options = PruneASRTask.get_parser().parse_args(
            ["--config", str(candidate), *command]
        )
        refuse_planned(options, student)
        refuse_multiple_iterator(options)
        refuse_missing_gpus(options.ngpu)
        refuse_wrong_rate(options)
        refuse_another_run(options)
        candidate.replace(config)
        settle_table(args.output_dir)
        return options
    finally:
        candidate.unlink(missing_ok=True)
        settle_table(args.output_dir, keep=False)


def student_config(args: argparse.Namespace) -> dict[str, Any]:
    """The training config; refuses what does not fit before a training starts."""
    config, recipe = read_yaml(args.model_config), read_yaml(args.recipe)
    if args.max_epoch is not None:
        recipe["max_epoch"] = args.max_epoch
    for section in SECTIONS:
        if given := getattr(args, section):
            if args.phase == "finetune" and section != "distill":
                raise InputError(f"--{section}", "belongs to the pruning, stage 12")
            recipe[section] = (recipe.get(section) or {}) | given
    if args.method in UNTAUGHT:
        untaught = {"layer_weight": 0.0, "output_weight": 0.0}
        recipe["distill"] = (recipe.get("distill") or {}) | untaught
    with refusing(source_of(args)):
        make_options(DistillOptions, "distill", recipe.get("distill"))
        # The learning rate may stand on the command line alone.
        optimizer_options({"lr": 0.0} | (recipe.get("optim_conf") or {}))
    model, model_args = load_model(args.model_config, args.model_file)
    if args.phase == "finetune":
        if model.decoder is None:  # no accuracy to choose the best epochs by
            recipe["best_model_criterion"] = [["valid", "loss", "min"]]
        size = teacher_size(args) if args.method in SCRATCH else None
        student = finetuning_config(config, args.model_config, recipe, size)
        start, learned = [args.model_file], args.model_file.with_name(PROJECTION)
        distill = make_options(DistillOptions, "distill", recipe.get("distill"))
        if learned.exists() and projects(distill, model.encoder, size):
            start.append(learned)
        return student | {"init_param": [str(path) for path in start]}
    given = {"kind": args.kind, "target": args.target}
    with refusing(source_of(args)):
        recipe["sparsity"] = dict(recipe.get("sparsity") or {})
        recipe["sparsity"] |= {k: v for k, v in given.items() if v is not None}
        recipe["gates"] = dict(recipe.get("gates") or {})
        if args.previous is not None:
            start = recipe["sparsity"]["start"] = reached(args.previous)
            if (MODEL_DIM in start) != bool(recipe["gates"].get(MODEL_DIM)):
                had = str(MODEL_DIM in start).lower()
                raise InputError(
                    args.previous,
                    f"was pruned with model_dim: {had} in gates",
                    "go on with the same, or start from the dense model",
                )
        if args.method == "iterative":
            recipe["sparsity"]["by"] = "magnitude"
        if args.method in (*ONE_SHOT, "iterative"):  # weights as they are, or gone
            recipe["gates"]["mode"] = "straight_through"
        options = make_options(SparsityOptions, "sparsity", recipe["sparsity"])
        make_options(GateOptions, "gates", recipe["gates"])
    frames = frames_of(model, model_args, options.macs_seconds)
    student = pruning_config(config, args.model_config, recipe, frames)
    with refusing(args.model_config):
        encoder = encoder_choices.get_class(student["encoder"])(
            model.frontend.output_size(), **student["encoder_conf"]
        )
    decoder = None
    if recipe.get("prune_decoder"):
        if model.decoder is None:
            raise InputError(
                args.model_config, "has no decoder", "leave out prune_decoder"
            )
        with refusing(args.model_config):
            decoder = PrunableTransformerDecoder(
                len(config["token_list"]), encoder.fixed.size, **student["decoder_conf"]
            )
    conditions = {}
    if options.denominator == "model":
        conditions["rest"] = rest_cost(model, frames, options.macs_tokens)
    kind = encoder.architecture.kind
    if "latency" in options.kinds:
        if kind != "conformer":
            raise InputError(
                source_of(args),
                f"the latency of an encoder {kind!r} cannot be measured yet",
                "choose a target in params or macs",
            )
        beyond = None
        if options.denominator == "model":
            samples = round(sampling_rate(model_args) * options.macs_seconds)
            beyond = Beyond(model, samples, options.macs_tokens, decoder)
        beside = args.model_config.parent
        table = table_of_run(args.output_dir, beside, encoder, frames, beyond)
        conditions["latency"] = table["prices"]
        if beyond is not None:
            conditions["rest"]["latency"] = table["beyond"]
    student["model_conf"] |= conditions
    with refusing(source_of(args)):
        budget = make_budget(options, encoder, frames, **conditions, decoder=decoder)
        Schedule(options, budget)
    plan = {"method": args.method}
    if args.method in SCRATCH:
        if kind != "conformer":
            raise InputError(
                f"--method {args.method}",
                f"makes a small Conformer, the dense encoder is {kind!r}",
                "choose another method",
            )
        student = small_config(
            config, args.model_config, recipe, encoder, frames, budget
        )
        target = {"kind": options.kind, "value": options.target}
        plan |= student["model_conf"]["plan"]
        plan |= {
            "teacher": str(args.model_file),
            "target": target | {"denominator": options.denominator},
            "macs_seconds": options.macs_seconds,
        }
    else:
        parts = {"encoder": encoder, "decoder": decoder}
        gated = torch.nn.ModuleDict({n: p for n, p in parts.items() if p is not None})
        check_reachable(gated, budget)
    student["model_conf"]["plan"] = plan
    return student


def refuse_planned(options: argparse.Namespace, student: dict[str, Any]) -> None:
    """Refuse ESPnet options that change what the student's plan was made from.

    Raises:
        InputError: it was given as ``--model_conf`` or ``--encoder_conf``.
    """
    for part, names in {"model_conf": OWN_OPTIONS, "encoder_conf": ["gates"]}.items():
        for name in names:
            if (getattr(options, part) or {}).get(name) != student[part].get(name):
                raise InputError(
                    f"--{part} {name}",
                    "is the plan's",
                    "give --gates, --sparsity or --distill KEY=VALUE instead",
                )


def reached(previous: Path) -> dict[str, float]:
    """What the pruning run that goes on has removed, by constraint.

    Raises:
        InputError: it is none, or is not finished.
    """
    config = previous / "config.yaml"
    check_finished(config)
    try:
        model, _ = load_model(config, previous / "latest.pth")
        gone = {c.key: c.target for c in model.sparsity.budget.constraints}
        dim = model.sparsity.budget.dim_target
        return gone if dim is None else gone | {MODEL_DIM: dim}
    except AttributeError as e:
        raise InputError(previous, "is no pruning run", "run stage 12 of it") from e


def teacher_size(args: argparse.Namespace) -> int:
    """Model dimension of the teacher."""
    conf = read_yaml(args.teacher_config).get("encoder_conf") or {}
    return conf.get("output_size", 256)


def prune_at_once(args: argparse.Namespace, command: list[str]) -> None:
    """Write what a pruning run leaves, from scores instead of a training."""
    alone = ["--multiprocessing_distributed", "false", "--dist_launcher", "none"]
    alone += ["--dist_world_size", "1"]  # the other nodes of the training have no part
    PruneASRTask.main(cmd=[*command, *alone, "--dry_run", "true"])  # writes config.yaml
    config = args.output_dir / "config.yaml"
    model, train_args = ASRTask.build_model_from_file(config, None, "cpu")
    weights = read_state(args.model_file)
    model.load_state_dict(model.state_dict() | weights, strict=True)
    budget = model.sparsity.budget
    scores = scores_of(args.method, model, budget, train_args.seed)
    settle(model, budget, scores)
    with atomic_path(args.output_dir / "latest.pth") as temporary:
        torch.save(model.state_dict(), temporary)


def source_of(args: argparse.Namespace) -> str:
    """Where the options of the recipe come from, for messages."""
    given = [f"--{section}" for section in SECTIONS if getattr(args, section)]
    return " and ".join([str(args.recipe), *given])


@contextmanager
def refusing(source: str | Path) -> Iterator[None]:
    """Turn what a constructor refuses into an error of the file it came from."""
    try:
        yield
    except (TypeError, ValueError) as e:
        raise InputError(source, str(e).removeprefix(f"{source}: ")) from e


def averaged_name(options: argparse.Namespace) -> str:
    """ESPnet's name of the averaged weights, by the first criterion of a training."""
    phase, key, *_ = options.best_model_criterion[0]
    return f"{phase}.{key}.ave.pth"


def finish(averaged: Path, config: Path, final: Path) -> None:
    """Give the averaged weights their final name, once they load strictly."""
    if not averaged.exists():
        raise InputError(averaged, "was not written", "see the training's log")
    with atomic_path(final) as temporary:
        # To a file object: torch writes a file's name into it, and the report takes the
        # same weights with another checksum for another model.
        with temporary.open("wb") as file:
            torch.save(model_state(read_state(averaged)), file)
        load_model(config, temporary)


if __name__ == "__main__":
    run_main(main)

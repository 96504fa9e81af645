"""Train a student beside its teacher: pruning (stage 12), fine-tuning (stage 14).

Further options are those of ``espnet2.bin.asr_train``.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

import numpy as np
import torch

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml, write_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.data.calibration import calibration_audio
from espnet_prune.export.compact_dir import model_state, place_weights
from espnet_prune.export.sizes import write_sizes
from espnet_prune.families.espnet.checkpoint import (
    plain_file,
    read_state,
    sampling_rate,
)
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.families.registry import find_kind
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.running.nodes import Node
from espnet_prune.training.choices import refusing
from espnet_prune.training.configs import before_encoder
from espnet_prune.training.hearing import compress
from espnet_prune.training.known_tokens import refuse_unknown_tokens
from espnet_prune.training.origin import (
    STUDENT,
    averaged_name,
    going_on,
    pieces,
    refuse_missing_texts,
    refuse_wrong_rate,
    settled,
    with_texts,
)
from espnet_prune.training.plan import student_config
from espnet_prune.training.recipe import add_options, settle_method
from espnet_prune.training.student import OWN_OPTIONS
from espnet_prune.training.task import PRUNE_TASKS, PruneTask
from espnet_prune.training.trainer import atomic_torch_save


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument(
        "--teacher_config", type=Path, required=True, help="the teacher's config.yaml"
    )
    parser.add_argument("--teacher_model", type=Path, required=True, help="its weights")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--ingredient",
        action="store_true",
        help="of a soup, which takes the place of what is fine-tuned alone",
    )
    parser.add_argument(
        "--latency_table", type=Path, help="shared with other runs; default: its own"
    )
    parser.add_argument(
        "--sizes", type=Path, nargs="+", default=[],
        help="instead of --compact, several; one set of weights is trained for all",
    )  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> None:
    args, training_options = get_parser().parse_known_args(arguments)
    for path in (args.teacher_config, args.teacher_model):
        if not path.is_file():
            raise InputError(path, "does not exist", "give a trained model")
    with plain_file(args.teacher_model) as weights:
        train(args, training_options, weights)


def train(args: argparse.Namespace, training_options: list[str], weights: str) -> None:
    """Train the student.

    Args:
        args, training_options: the command line, and ESPnet's own options in it.
        weights: the teacher's, in a file that ESPnet reads.
    """
    if args.sizes:
        args.compact = args.sizes[0]  # what holds for one holds for all
    settle_method(args)
    command = ["--output_dir", str(args.output_dir)]
    command += ["--teacher_config", str(args.teacher_config)]
    command += ["--teacher_model", str(args.teacher_model)]
    pruning, teacher = args.compact is None, read_yaml(args.teacher_config)
    task = task_of(teacher)
    training = PRUNE_TASKS[task.name]
    if (pruning or args.sizes) and args.previous is None:
        start = [weights]
        if not METHODS[args.method].gated:  # all but what is frozen starts from nothing
            start = [f"{weights}:{part}:{part}" for part in before_encoder(teacher)]
        command += ["--init_param", *start] if start else []
    training_options = with_texts(training_options, task)
    command += [*going_on(args.previous), *training_options]
    node, plan = Node(training_options, args.output_dir), partial(student_config, args)
    settle = partial(settled, training, args.output_dir, command, plan)
    options = node.first(partial(settle, refuse_untaken))
    command += ["--config", str(args.output_dir / STUDENT)]
    if pruning and not METHODS[args.method].trained:
        heard = METHODS[args.method].heard
        node.first(
            lambda: prune_at_once(
                training, args, command, heard_by(options) if heard else ()
            )
        )
        return
    hand_logging_to_espnet()
    training.main(cmd=command)
    if not pruning and node.is_first and not args.ingredient:
        averaged = args.output_dir / averaged_name(options.best_model_criterion)
        if not averaged.exists():
            raise InputError(averaged, "was not written", "see the training's log")
        if args.sizes:
            write_sizes(args.output_dir, averaged)
        else:
            place_weights(model_state(read_state(averaged)), args.compact)


def refuse_untaken(options: argparse.Namespace, student: dict[str, Any]) -> None:
    """Refuse ESPnet options that change what the student's plan was made from, audio
    of another rate, and data that lack a text.

    Raises:
        InputError: it was given as ``--model_conf``, or ``--encoder_conf`` has what
            cannot be pruned; or the data are not those of the model.
    """
    refuse_wrong_rate(options)
    task = task_of(student)
    refuse_missing_texts(options, task)
    refuse_unknown_tokens(options, task)
    with refusing("--encoder_conf"):
        find_kind(student["encoder"]).rules.check(options.encoder_conf)
    for name in OWN_OPTIONS:
        if (options.model_conf or {}).get(name) != student["model_conf"].get(name):
            raise InputError(
                f"--model_conf {name}",
                "is the plan's",
                "give --gates, --sparsity or --distill KEY=VALUE instead",
            )


def heard_by(options: argparse.Namespace) -> list[np.ndarray]:
    """Read some of the audio, float32 (sample,) each, that a training would hear."""
    sources = options.train_data_path_and_name_and_type
    (table, *_) = pieces(next(path for path, name, _ in sources if name == "speech"))
    return calibration_audio(table, sampling_rate(options), "the model")


def prune_at_once(
    task: type[PruneTask],
    args: argparse.Namespace,
    command: list[str],
    audio: Sequence[np.ndarray] = (),
) -> None:
    """Write what a pruning run leaves, from scores instead of a training.

    Args:
        task: of the training.
        args: of the command line.
        command: ESPnet's options.
        audio: (sample,) each, for a method that chooses by what is heard.
    """
    alone = ["--multiprocessing_distributed", "false", "--dist_launcher", "none"]
    alone += ["--dist_world_size", "1"]  # the other nodes of the training have no part
    task.main(cmd=[*command, *alone, "--dry_run", "true"])  # writes config.yaml
    config = args.output_dir / "config.yaml"
    model, train_args = task.build_model_from_file(config, None, "cpu")
    weights = read_state(args.teacher_model)
    model.load_state_dict(model.state_dict() | weights, strict=True)
    if METHODS[args.method].heard:
        told = read_yaml(config)
        told["model_conf"] = compress(model, told["model_conf"], audio)
        write_yaml(config, told)
    else:
        budget = model.sparsity.budget
        scores = scores_of(args.method, budget, model.tensors(), train_args.seed)
        settle(model.gates, budget, scores)
    with atomic_torch_save():
        torch.save(model.state_dict(), args.output_dir / "latest.pth")


if __name__ == "__main__":
    run_main(main)

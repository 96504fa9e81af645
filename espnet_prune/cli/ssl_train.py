"""Prune a self-supervised encoder beside its dense teacher, or distil a compact one.

    python -m espnet_prune.cli.ssl_train --dense DIR --recipe conf/ssl/prune.yaml \
        --target 0.5 --train dump/train --valid dump/valid --output_dir exp/pruned

Further options are those of ESPnet's trainer.
"""

import argparse
from functools import partial
from pathlib import Path

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

import torch

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import write_text, write_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.data.audio import check_rate
from espnet_prune.data.kaldi_dir import audio_type
from espnet_prune.export.ssl import finish
from espnet_prune.families.ssl.audio import RATE, normalizes
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.report.ssl_card import card
from espnet_prune.running.nodes import Node
from espnet_prune.training.origin import STUDENT, averaged_name, going_on, settled
from espnet_prune.training.recipe import (
    add_options,
    settle_method,
)
from espnet_prune.training.ssl_plan import training_config
from espnet_prune.training.ssl_task import PruneSpeechTask
from espnet_prune.training.trainer import atomic_torch_save


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add_options(parser)
    parser.add_argument("--dense", type=Path, required=True, help="of the dense model")
    parser.add_argument("--train", type=Path, required=True, help="crops to train on")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--latency_table", type=Path, help="shared with other runs; default: its own"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    args, more = get_parser().parse_known_args(argv)
    settle_method(args)
    command = ["--output_dir", str(args.output_dir), "--resume", "true"]
    for name in ("train", "valid"):
        folder = getattr(args, name)
        check_rate(folder / "wav.scp", RATE, "the model")
        audio = f"{folder}/wav.scp,speech,{audio_type(folder)}"
        command += [f"--{name}_data_path_and_name_and_type", audio]
        command += [f"--{name}_shape_file", str(folder / "utt2num_samples")]
        if (folder / "text").is_file():
            text = f"{folder}/text,text,text"
            command += [f"--{name}_data_path_and_name_and_type", text]
    command += [*going_on(args.previous), *more]
    node, plan = Node(more, args.output_dir), partial(training_config, args)
    settle = partial(settled, PruneSpeechTask, args.output_dir, command, plan)
    options = node.first(settle)
    method = METHODS[args.method]
    if args.compact is None and not (method.trained and method.gated):
        node.first(lambda: prune_at_once(args, options))
        return
    hand_logging_to_espnet()
    PruneSpeechTask.main(cmd=[*command, "--config", str(args.output_dir / STUDENT)])
    if args.compact is not None and node.is_first:
        averaged = args.output_dir / averaged_name(options.best_model_criterion)
        out, told = finish(averaged, args.compact, args.dense)
        page = card(out.name, told, normalizes(out))
        write_text(out / "README.md", page)


def prune_at_once(args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Write what a pruning run leaves, from scores instead of a training.

    A small model that is trained from scratch has the sizes that ``magnitude`` leaves:
    even ones.
    """
    model = PruneSpeechTask.build_model(options)
    budget = model.sparsity.budget
    by = args.method if METHODS[args.method].gated else "magnitude"
    settle(model.gates, budget, scores_of(by, budget, model.tensors(), options.seed))
    conf = {"model_conf": options.model_conf, "seed": options.seed}
    write_yaml(args.output_dir / "config.yaml", conf)
    with atomic_torch_save():
        torch.save(model.state_dict(), args.output_dir / "latest.pth")


if __name__ == "__main__":
    run_main(main)

"""Train as ``asr.sh`` calls ``espnet2.bin.asr_train`` (its stages 10 and 11), or prune.

A config with ``teacher_config`` and ``teacher_model`` in it prunes that model
(``conf/prune_asr_sh.yaml``) or, with ``compact: DIR``, fine-tunes what was exported to
that directory (``conf/finetune_asr_sh.yaml``). Every other config trains as in ESPnet.
"""

import argparse
import logging
import re
from pathlib import Path
from typing import Any

from espnet_prune.base.quiet import hand_logging_to_espnet  # before anything of ESPnet

# isort: split

from espnet2.tasks.asr import ASRTask
from espnet2.utils.types import str2bool

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml, write_yaml
from espnet_prune.cli import asr_train, check_early, prune_train
from espnet_prune.training.configs import model_config
from espnet_prune.training.espnet_options import OneLineParser, check_config
from espnet_prune.training.recipe import OWN_KEYS, settle_method
from espnet_prune.training.registration import names_ours
from espnet_prune.training.task import DenseASRTask

TEACHER = ("teacher_config", "teacher_model")
# What asr.sh says about the model and its text: a student has its teacher's.
OF_THE_TEACHER = (
    "use_preprocessor", "bpemodel", "token_type", "non_linguistic_symbols", "cleaner",
    "g2p", "normalize", "normalize_conf", "frontend_conf", "ignore_init_mismatch",
)  # fmt: skip


def get_parser() -> argparse.ArgumentParser:
    """Make the parser of what must be known before ESPnet's own sees the options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--collect_stats", type=str2bool, default=False)
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--token_list", type=Path)
    parser.add_argument("--init_param", nargs="*")
    parser.add_argument("--encoder")
    parser.add_argument("--decoder")
    for name in OF_THE_TEACHER:
        parser.add_argument(f"--{name}", action="append")
    return parser


def main() -> None:
    args, rest = get_parser().parse_known_args()
    recipe = read_yaml(args.config) if args.config is not None else {}
    if not recipe.keys() & {*TEACHER, *OWN_KEYS}:
        named = {"encoder": args.encoder, "decoder": args.decoder}
        if names_ours(recipe | {k: v for k, v in named.items() if v is not None}):
            return asr_train.main()
        hand_logging_to_espnet()
        return ASRTask.main()
    for name in TEACHER:
        if recipe.get(name) is None:
            raise InputError(args.config, f"lacks {name}", "name the dense model's")
    if args.output_dir is None:
        raise InputError("--output_dir", "is missing")
    if args.init_param:
        raise InputError(
            f"--init_param {' '.join(args.init_param)}",
            "a student starts from its teacher or from compact",
            "leave out asr.sh's --pretrained_model",
        )
    source = recipe["teacher_config"]
    teacher = model_config(read_yaml(source), source)
    check_tokens(args.token_list, teacher, source)
    options = command(args, recipe) + rest
    parser = prune_train.get_parser()
    parser.error = OneLineParser(prog="--asr_args").error
    stage, of_espnet = parser.parse_known_args(options)
    if args.collect_stats:
        refuse_lightning(args.output_dir.parent.parent)
    check(stage, recipe, teacher)
    if args.collect_stats:
        collect_stats(args.output_dir, teacher, of_espnet)
        return
    prune_train.main(options)


def check_tokens(given: Path | None, teacher: dict[str, Any], source: str) -> None:
    """Refuse a token list that is not the teacher's."""
    if given is None:
        return
    try:
        text = given.read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(given, f"cannot be read ({e.strerror})", "run stage 5") from e
    # As ESPnet reads it: other line ends of Unicode may be in a token.
    tokens = [line.rstrip() for line in text.removesuffix("\n").split("\n")]
    if tokens != teacher["token_list"]:
        raise InputError(
            given,
            f"holds other tokens than {source}",
            "give asr.sh the --token_type, --nbpe and --lang of the teacher",
        )


def refuse_lightning(stats: Path) -> None:
    """Refuse asr.sh's other trainer before stage 10, whose statistics it would use.

    Args:
        stats: directory of stage 10, in which asr.sh has left its own command line.
    """
    script = stats / "run.sh"
    said = script.read_text(encoding="utf-8") if script.is_file() else ""
    if re.search(r"--use[-_]lightning '?true", said):
        raise InputError(
            "--use_lightning true",
            "a student is trained by ESPnet's own trainer alone",
            "leave it out",
        )


def check(
    stage: argparse.Namespace, recipe: dict[str, Any], teacher: dict[str, Any]
) -> None:
    """Refuse before stage 10 what stage 11 would: hours may lie between them.

    Args:
        stage: options of the training, as :mod:`prune_train` reads them.
        recipe: the config that asr.sh was given.
        teacher: config of the teacher.
    """
    settle_method(stage)
    ours = {*OWN_KEYS, *TEACHER}
    check_config(stage.recipe, {k: v for k, v in recipe.items() if k not in ours})
    check_early.check_stage(stage, teacher, stage.teacher_config)
    check_early.check_teacher(stage.teacher_config, stage.teacher_model)


def collect_stats(folder: Path, teacher: dict[str, Any], rest: list[str]) -> None:
    """Collect ESPnet's statistics, of the teacher's features.

    Args:
        folder: where they go.
        teacher: config of the teacher.
        rest: options of ESPnet's; changes of the recipe are of stage 11 alone.
    """
    config = folder / "teacher.yaml"
    write_yaml(config, teacher)
    options = ["--collect_stats", "true", "--output_dir", str(folder)]
    hand_logging_to_espnet()
    DenseASRTask.main(cmd=["--config", str(config), *options, *rest])


def command(args: argparse.Namespace, recipe: dict[str, Any]) -> list[str]:
    """Turn asr.sh's options and the config into options of :mod:`prune_train`."""
    compact = recipe.get("compact")
    options = {"recipe": args.config, "output_dir": args.output_dir}
    options |= {name: recipe[name] for name in TEACHER}
    if compact is not None:
        options["compact"] = compact
    ignored = [f"--{name}" for name in OF_THE_TEACHER if getattr(args, name)]
    if ignored:
        logging.info(f"as in {recipe['teacher_config']}, not as in {' '.join(ignored)}")
    return [
        text for name, value in options.items() for text in (f"--{name}", str(value))
    ]


if __name__ == "__main__":
    run_main(main)

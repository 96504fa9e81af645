"""Refuse what this machine or the model lacks, before stages that take hours.

The program checks GPUs for training (``--ngpu``) and decoding (``--decode_ngpu``), the
hardware that the number formats of ``--precisions`` need, what is for Conformers only,
options of stages 12 and 14 that there are not or that contradict each other,
whether the model that ``--config`` and ``--asr_args`` describe can be pruned so, and a
teacher's files.
"""

import argparse
import contextlib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import REFERENCE
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.families.registry import kind_of, require

COMPACT = Path("the one that the export will make")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--decode_ngpu", type=int, default=0)
    parser.add_argument("--precisions", type=str.split, default=[])
    parser.add_argument("--methods", type=str.split, default=[REFERENCE])
    parser.add_argument("--target_kind")
    parser.add_argument("--targets", type=str.split, default=[])
    parser.add_argument("--prune_config", type=Path, help="stage 12 runs, with that")
    words = {"type": str.split, "default": []}
    parser.add_argument("--prune_args", **words, help="options beside it")
    parser.add_argument("--finetune_config", type=Path, help="the same of stage 14")
    parser.add_argument("--finetune_args", **words)
    parser.add_argument("--soup", type=int, default=1, help="fine-tunings of each")
    parser.add_argument("--inference_config", type=Path)
    parser.add_argument("--config", type=Path, help="of the dense model")
    parser.add_argument("--asr_args", type=str.split, help="it is trained, with these")
    parser.add_argument("--inference_asr_model", help="file of it that is used")
    parser.add_argument("--teacher_model", type=Path, help="weights of --config")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="of training")
    parser.add_argument("--fs", type=int, help="rate of the audio to come, in Hz")
    return parser


def main(argv: list[str] | None = None) -> None:
    check(get_parser().parse_args(argv))


def check(args: argparse.Namespace) -> None:
    """Refuse what would be refused after hours.

    Args:
        args: of :func:`get_parser`, from a command line or from Python.

    Raises:
        InputError: names the option, and the mend.
    """
    if args.ngpu or args.decode_ngpu or args.precisions:
        check_hardware(args)
    config = args.config and read_config(args)
    if args.finetune_config is not None:
        check_finetuning(args, config)
    if args.prune_config is not None:
        check_pruning(args, config)
    if args.config is not None:
        check_dense(args, config)
    if args.teacher_model is not None:
        check_teacher(args.config, args.teacher_model, args.fs)


def read_config(args: argparse.Namespace) -> dict[str, Any]:
    """Read the config of the dense model, and the options that it is trained with."""
    if args.asr_args is None:
        return read_yaml(args.config)
    from espnet_prune.training.dense_config import read_dense

    return read_dense(args.config, args.asr_args)


def check_dense(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Refuse a dense model that cannot be trained, decoded, or learn from these data.

    Args:
        args: the command line.
        config: of :func:`read_config`.
    """
    if args.asr_args is not None:
        from espnet_prune.training.dense_config import check_made, check_weights

        check_made(args.config, config, args.asr_args)
        check_weights(args.config, config, args.inference_asr_model)
    if args.inference_config is not None:
        import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

        # isort: split
        from espnet_prune.cli.decode import check_lm_files
        from espnet_prune.serving.decoders import read_search
        from espnet_prune.training.dense_config import check_search

        search = read_search(args.inference_config, task_of(config))
        check_lm_files(search, args.inference_config)
        check_search(args.config, config, search)
    for folder in filter(Path.is_dir, args.data):
        for name in task_of(config).texts[1:]:  # text itself all stages need
            if not (folder / name).is_file():
                what = f"does not exist, and {args.config} learns from it"
                raise InputError(folder / name, what, "make it: see docs/owsm.md")
    if "int8" in args.precisions:
        require(kind_of(config), "runtime", "--precisions int8")


def check_teacher(
    config: Path, weights: Path, fs: int | None = None
) -> argparse.Namespace:
    """Load a teacher, and what makes its tokens: whatever its files lack shows.

    Args:
        config, weights: of the teacher.
        fs: rate of the audio to come, in Hz.

    Returns:
        the options of its training.
    """
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate

    _, told = load_model(config, weights)
    rate = sampling_rate(told)
    if fs not in (None, rate):
        what = f"{fs} Hz, but the model of {config} hears {rate} Hz"
        raise InputError("--fs", what, f"give --fs {rate}")
    told.noise_scp = told.rir_scp = None  # see model_config
    try:
        task = task_of(vars(told)).training
        tokens_of = task.build_preprocess_fn(told, train=False)
        if tokens_of is not None:
            tokens_of("check", {"text": "A"})
    except Exception as e:  # of any package that makes tokens
        reason = ": ".join([type(e).__name__, *str(e).strip().splitlines()[:1]])
        what = f"its token_type {told.token_type} cannot be used here ({reason})"
        raise InputError(config, what, "install what it needs") from e
    return told


def check_hardware(args: argparse.Namespace) -> None:
    """Refuse GPUs that are not there, and formats that would be slow here."""
    import espnet_prune.base.quiet  # noqa: F401  (seconds; most runs ask for nothing)

    # isort: split
    import torch

    from espnet_prune.serving.inference import check_precision
    from espnet_prune.training.origin import refuse_missing_gpus

    refuse_missing_gpus(args.ngpu)
    refuse_missing_gpus(args.decode_ngpu, "--gpu_inference true")
    device = torch.device("cuda" if args.decode_ngpu else "cpu")
    for precision in args.precisions:
        check_precision(precision, device)


def check_finetuning(args: argparse.Namespace, config: dict[str, Any] | None) -> None:
    """Refuse options of stage 14 that there are not, or that the encoder cannot do.

    Args:
        args: the command line.
        config: of the dense model; None before it is fetched.
    """
    for method in args.methods:
        given = args.finetune_config, args.finetune_args, method
        stage = training_options("--finetune_args", *given, compact=COMPACT)
        check_stage(stage, config, args.config)
    if args.soup > 1 and config is not None:
        from espnet_prune.families.espnet.tasks import require_asr
        from espnet_prune.training.dense_config import has_ctc

        mend = "leave out --soup"
        require_asr(task_of(config), args.config, mend)
        if not has_ctc(config):
            what = f"has no CTC head (ctc_weight: 0), by which --soup {args.soup} tells"
            raise InputError(args.config, f"{what} its fine-tunings apart", mend)


def check_pruning(args: argparse.Namespace, config: dict[str, Any] | None) -> None:
    """Refuse what stage 12 would, once the dense model is trained.

    Args:
        args: the command line.
        config: of the dense model; None before it is fetched.
    """
    for method, target in itertools.product(args.methods, args.targets or [None]):
        given = args.prune_config, args.prune_args, method, args.target_kind
        stage = training_options("--prune_args", *given, target and float(target))
        check_stage(stage, config, args.config)


def check_stage(
    stage: argparse.Namespace,
    config: dict[str, Any] | None = None,
    source: Path | None = None,
) -> None:
    """Refuse what a student's training would, a pruning or a fine-tuning.

    Args:
        stage: options of the training.
        config: of the model to prune; None before it is fetched.
        source: where that was read.
    """
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.training.choices import check_model, require_all
    from espnet_prune.training.plan import check_target
    from espnet_prune.training.recipe import read_recipe, settle_options

    recipe = read_recipe(stage)
    if stage.compact is not None:
        if config is not None:
            require_all(kind_of(config), stage, recipe)
        return
    options = settle_options(stage, recipe)
    if config is not None:
        kind = check_model(config, source, stage, recipe)
        check_target(config, source, kind, stage, recipe, options)


def training_options(
    where: str,
    recipe: Path,
    options: Sequence[str],
    method: str,
    kind: str | None = None,
    target: float | None = None,
    compact: Path | None = None,
) -> argparse.Namespace:
    """Parse options as the training of a stage does.

    Args:
        where: the option that holds them.
        recipe: of the training.
        options: beside it.
        method: of ``METHODS``.
        kind, target: of a pruning; None: the recipe's.
        compact: directory of what is fine-tuned.

    Raises:
        InputError: an option, or a key of the recipe, is none of ESPnet's either, or
            is shared by all stages.
    """
    from espnet_prune.training.espnet_options import (
        OneLineParser,
        check_config,
        check_options,
    )
    from espnet_prune.training.recipe import OWN_KEYS, SHARED, add_changes

    parser = OneLineParser(prog=where, add_help=False, allow_abbrev=False)
    add_changes(parser)
    found, rest = parser.parse_known_args(options)
    for word in rest:
        if (name := word.split("=")[0].removeprefix("--")) in SHARED:
            what = f"--{name} is not of one stage alone"
            raise InputError(where, what, "give it beside this option, not in it")
    check_options(where, rest)
    given = read_yaml(recipe).items()
    check_config(recipe, {key: value for key, value in given if key not in OWN_KEYS})
    shared = {"method": method, "kind": kind, "target": target, "recipe": recipe}
    shared |= {"compact": compact, "previous": None}
    return argparse.Namespace(**vars(found), **shared)


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):  # ESPnet's, while it is imported
        run_main(main)

"""Compress a trained model in minutes, without a training, by audio alone.

    espnet-prune compress --config exp/asr/config.yaml --model exp/asr/model.pth \
        --data dump/raw/train --target 0.3 --out exp/small

Units go that others make up for, dimensions inside heads, and ranks of matrices, by
what the layers hear of the audio; no transcript is read. The directory is that of an
export: ESPnet loads it, and stage 14 can fine-tune it.
"""

import argparse
import contextlib
import io
import logging
import tempfile
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml, write_yaml
from espnet_prune.config.rungs import PRUNED

RECIPE = Path(__file__).parents[1] / "config/recipes/prune.yaml"
METHOD = "low_rank"
KINDS = ("params+macs", "params", "macs")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="of the model")
    parser.add_argument("--model", type=Path, required=True, help="its weights")
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with a wav.scp of speech"
    )
    parser.add_argument("--out", type=Path, required=True, help="compact directory")
    parser.add_argument(
        "--target", type=float, default=0.3, help="fraction of the encoder to remove"
    )
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if not 0 < args.target < 1:
        what = "is no fraction of the encoder"
        raise InputError(f"--target {args.target:g}", what, "give one as 0.3")
    for path in (args.config, args.model):
        if not path.is_file():
            raise InputError(path, "does not exist", "give a trained model")
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.cli.prune_train import get_parser as stage_12
    from espnet_prune.cli.prune_train import prune_at_once
    from espnet_prune.data.calibration import calibration_audio
    from espnet_prune.export.export import export
    from espnet_prune.families.espnet.checkpoint import plain_file, sampling_rate
    from espnet_prune.families.espnet.tasks import task_of
    from espnet_prune.training.origin import STUDENT
    from espnet_prune.training.plan import student_config
    from espnet_prune.training.task import PRUNE_TASKS

    teacher = read_yaml(args.config)
    rate = sampling_rate(argparse.Namespace(**teacher))
    audio = calibration_audio(args.data / "wav.scp", rate, args.config)
    with tempfile.TemporaryDirectory() as name, plain_file(args.model) as weights:
        folder = Path(name)
        command = ["--output_dir", name, "--teacher_config", str(args.config)]
        command += ["--teacher_model", weights]
        run = ["--method", METHOD, "--kind", args.kind, "--target", str(args.target)]
        student = stage_12().parse_args([*command, *run, "--recipe", str(RECIPE)])
        write_yaml(folder / STUDENT, student_config(student))
        command += ["--config", str(folder / STUDENT)]
        logging.info(f"{args.data}: the model hears it")
        task = PRUNE_TASKS[task_of(teacher).name]
        with contextlib.redirect_stderr(io.StringIO()):  # ESPnet's command line
            prune_at_once(task, student, command, audio)
        summary = export(folder / "config.yaml", folder / "latest.pth", args.out)
    removed = summary["removed"]
    logging.info(
        f"{args.out}/{PRUNED}: {removed['params']:.1%} of the encoder's parameters and "
        f"{removed['macs']:.1%} of its MACs are gone"
    )


if __name__ == "__main__":
    run_main(main)

"""Pruning from Python, for those without a recipe: stages 3-14 in one call."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.data.kaldi_dir import DataDir, read_data_dir, write_data_dir
from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate

if TYPE_CHECKING:
    from espnet2.bin.asr_inference import Speech2Text

RECIPES = Path(__file__).parents[1] / "config/recipes"
HELD_OUT = 20  # of so many utterances one is for validation, where none are given


def prune(
    experiment: str | Path,
    train: str | Path,
    out: str | Path,
    valid: str | Path | None = None,
    model: str = "valid.acc.ave.pth",
    target: float = 0.5,
    kind: str = "params",
    prune_recipe: str | Path = RECIPES / "prune.yaml",
    finetune_recipe: str | Path = RECIPES / "finetune.yaml",
    prune_options: Sequence[str] = (),
    finetune_options: Sequence[str] = (),
    ngpu: int = 0,
    nj: int = 2,
    **decoding: Any,
) -> "Speech2Text":
    """Prune a trained ESPnet model, and fine-tune what is left.

    Progress is printed. Killed and called again, the trainings go on from the last
    epoch.

    Args:
        experiment: directory of an ESPnet2 ASR training: its ``config.yaml``
            and weights. Paths inside the config count from the current directory.
        train: Kaldi data directory (``wav.scp``, ``text``, ``utt2spk``, perhaps
            ``segments``) of what it was trained on, or alike.
        out: where everything goes; the compact model to ``out/compact``, as
            ``config.yaml``, ``finetuned.pth`` and ``pruning.json``.
        valid: data directory to choose the best epochs by; None holds one utterance in
            twenty out of the training.
        model: file of the weights.
        target: fraction of the encoder to remove, in (0, 1).
        kind: what it counts: ``params``, ``macs``, ``latency``, or ``params+macs``.
        prune_recipe, finetune_recipe: files as ``conf/prune.yaml`` and
            ``conf/finetune.yaml`` of the project, which are the defaults.
        prune_options, finetune_options: further options of these trainings, as
            ``("--max_epoch", "20")``.
        ngpu: GPUs to train on.
        nj: processes that format the audio.
        decoding: further arguments of ESPnet's ``Speech2Text``, such as ``beam_size``.

    Returns:
        ESPnet's decoder with the compact model (:func:`espnet_prune.load`).

    Raises:
        InputError: what is wrong with the input, and the mend.
    """
    # Here, because they import ESPnet.
    from espnet_prune.cli.check_early import check, get_parser
    from espnet_prune.serving.load import load

    teacher, out = Path(experiment, "config.yaml"), Path(out)
    weights = Path(experiment, model)
    goal = ("--kind", kind, "--target", target)
    # Hours lie between this and the trainings that would notice.
    early = ["--ngpu", ngpu, "--config", teacher, "--prune_config", prune_recipe]
    early = [*map(str, early), "--finetune_config", str(finetune_recipe)]
    args = get_parser().parse_args(early)
    args.prune_args = [*map(str, (*goal, *prune_options))]
    args.finetune_args = [*map(str, finetune_options)]
    check(args)
    load_model(teacher, weights)
    rate = sampling_rate(
        argparse.Namespace(**{"frontend_conf": {}} | read_yaml(teacher))
    )
    sets = {"train": train, "valid": valid}
    if valid is None:
        sets = hold_out(Path(train), out / "data")
    for name, source in sets.items():
        formatted = out / "dump/org" / name
        call(
            "format_audio", "--in", source, "--out", formatted, "--fs", rate, "--nj", nj
        )
        call("filter_data", "--in", formatted, "--out", out / "dump" / name)
    data = []
    for name in sets:
        option, folder = f"--{name}_data_path_and_name_and_type", out / "dump" / name
        data += [option, f"{folder}/wav.scp,speech,sound"]
        data += [option, f"{folder}/text,text,text"]
        data += [f"--{name}_shape_file", folder / "utt2num_samples"]
    data += ["--teacher_config", teacher, "--teacher_model", weights]
    data += ["--ngpu", ngpu, "--multiprocessing_distributed", "true"]
    data += ["--resume", "true"]
    pruned, compact = out / "pruned", out / "compact"
    train_student(
        pruned,
        *("--phase", "prune", "--recipe", prune_recipe, *goal),
        *("--model_config", teacher, "--model_file", weights),
        *("--latency_table", out / "latency.json"),
        *(*data, *prune_options),
    )
    call("export", "--pruned", pruned, "--out", compact)
    config, final = compact / "config.yaml", compact / "finetuned.pth"
    train_student(
        compact / "finetune",
        *("--phase", "finetune", "--recipe", finetune_recipe, "--final", final),
        *("--model_config", config, "--model_file", compact / "pruned.pth"),
        *(*data, *finetune_options),
    )
    return load(config, final, **decoding)


def hold_out(source: Path, folder: Path) -> dict[str, Path]:
    """Split a data directory in two, for training and for validation."""
    whole = read_data_dir(source)
    names = sorted(whole.text)
    if len(names) < 2:
        raise InputError(source, "holds one utterance", "give more, or valid=")
    parts = {"valid": set(names[::HELD_OUT])}
    parts["train"] = set(names) - parts["valid"]
    for name, kept in parts.items():
        recordings = {
            whole.segments[u].recording if whole.segments else u for u in kept
        }
        part = DataDir(
            wav={r: whole.wav[r] for r in recordings},
            text={u: whole.text[u] for u in kept},
            speakers={u: whole.speakers[u] for u in kept},
            segments=whole.segments and {u: whole.segments[u] for u in kept},
            speeds={u: s for u, s in whole.speeds.items() if u in kept},
        )
        write_data_dir(folder / name, part)
    return {name: folder / name for name in ("train", "valid")}


def train_student(folder: Path, *options: object) -> None:
    """Stage 12 or 14, its output in ``train.log``."""
    module = ["-m", "espnet_prune.cli.prune_train", "--output_dir", folder, *options]
    call("progress", "--log", folder / "train.log", "--", sys.executable, *module)


def call(program: str, *options: object) -> None:
    """Run a program of the project in a process of its own, and show what it says.

    Raises:
        InputError: it refused; with what it said.
    """
    command = [sys.executable, "-m", f"espnet_prune.cli.{program}", *map(str, options)]
    # A notebook may have found the package by sys.path, which processes do not inherit.
    found = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, found))}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)  # a notebook shows no output of processes
        last = line.strip() or last
    if process.wait():
        raise InputError(program, last.removeprefix("error: "))

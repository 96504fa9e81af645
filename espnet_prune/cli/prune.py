"""Prune from Python, for those without a recipe: stages 3-14 in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.errors import InputError
from espnet_prune.cli import check_early, filter_data, format_audio
from espnet_prune.cli.in_process import call, do_here, quiet_root
from espnet_prune.cli.ladder import FAMILIES, Ladder
from espnet_prune.config.methods import REFERENCE, SLIMMABLE
from espnet_prune.config.rungs import FINETUNED, Rung
from espnet_prune.data.kaldi_dir import read_data_dir, write_data_dir
from espnet_prune.families.espnet.checkpoint import sampling_rate
from espnet_prune.families.espnet.tasks import S2T, task_of
from espnet_prune.serving.load import load

RECIPES = Path(__file__).parents[1] / "config/recipes"
HELD_OUT = 20  # of so many utterances one is for validation, where none are given


def prune(
    experiment: str | Path,
    train: str | Path,
    out: str | Path,
    valid: str | Path | None = None,
    model: str = "valid.acc.ave.pth",
    target: float = 0.5,
    kind: str = "params+macs",
    method: str = REFERENCE,
    prune_recipe: str | Path = RECIPES / "prune.yaml",
    finetune_recipe: str | Path = RECIPES / "finetune.yaml",
    prune_options: Sequence[str] = (),
    finetune_options: Sequence[str] = (),
    ngpu: int = 0,
    nj: int = 2,
    **decoding: Any,
) -> Speech2Text:
    """Prune a trained ESPnet model, and fine-tune what is left.

    Progress is printed. Killed and called again, the trainings go on from the last
    epoch.

    Args:
        experiment: directory of an ESPnet2 training of ASR or S2T: its ``config.yaml``
            and weights. Paths inside the config count from the current directory.
        train: Kaldi data directory (``wav.scp``, ``text``, ``utt2spk``, perhaps
            ``segments``; of S2T ``text.prev`` and ``text.ctc``, too) of what it was
            trained on, or alike.
        out: where everything goes; the compact model to ``out/compact``, as
            ``config.yaml``, ``finetuned.pth`` and ``pruning.json``.
        valid: data directory to choose the best epochs by; None holds one utterance in
            twenty out of the training.
        model: file of the weights.
        target: fraction of the encoder to remove, in (0, 1).
        kind: what it counts: ``params``, ``macs``, ``latency``, or ``params+macs``.
        method: ``l0``, or a baseline.
        prune_recipe, finetune_recipe: files as ``conf/prune.yaml`` and
            ``conf/finetune.yaml`` of the project, which are the defaults.
        prune_options, finetune_options: further options of these trainings, as
            ``("--max_epoch", "20")``.
        ngpu: GPUs to train on. With several a script must call this below ``if
            __name__ == "__main__":``, for ESPnet's processes import the script, too.
        nj: processes that format the audio.
        decoding: further arguments of ESPnet's ``Speech2Text``, such as ``beam_size``.

    Returns:
        ESPnet's decoder with the compact model (:func:`espnet_prune.load`).

    Raises:
        InputError: what is wrong with the input, and the mend.
    """
    quiet_root()
    if method == SLIMMABLE:
        what = "makes one checkpoint of several targets"
        raise InputError(f"method {method!r}", what, "run.sh has it; take another here")
    teacher, out = Path(experiment, "config.yaml"), Path(out)
    weights = Path(experiment, model)
    # Hours lie between this and the trainings that would notice.
    early = check_early.get_parser().parse_args(["--ngpu", str(ngpu)])
    early.config, early.prune_config = teacher, Path(prune_recipe)
    early.target_kind, early.targets, early.methods = kind, [target], [method]
    early.prune_args = list(map(str, prune_options))
    early.finetune_config = Path(finetune_recipe)
    early.finetune_args = list(map(str, finetune_options))
    early.data = [Path(folder) for folder in (train, valid) if folder is not None]
    check_early.check(early)
    told = check_early.check_teacher(teacher, weights)
    rate, longest = sampling_rate(told), []
    if task_of(vars(told)) is S2T:
        longest = ["--max_seconds", told.preprocessor_conf.get("speech_length", 30)]
    sets = {"train": train, "valid": valid}
    if valid is None:
        sets = hold_out(Path(train), out / "data")
    for name, source in sets.items():
        formatted = out / "dump/org" / name
        call(format_audio, "--in", source, "--out", formatted, "--fs", rate, "--nj", nj)
        filtered = out / "dump" / name
        call(filter_data, "--in", formatted, "--out", filtered, *longest)
    data = []
    for name in sets:
        option, folder = f"--{name}_data_path_and_name_and_type", out / "dump" / name
        data += [option, f"{folder}/wav.scp,speech,sound"]
        data += [option, f"{folder}/text,text,text"]
        data += [f"--{name}_shape_file", folder / "utt2num_samples"]
    common = [*data, "--teacher_config", teacher, "--teacher_model", weights]
    common += ["--ngpu", ngpu, "--multiprocessing_distributed", "true"]
    common += ["--resume", "true"]
    compact = out / "compact"
    Ladder(
        FAMILIES["espnet"],
        [Rung(method, target, kind)],
        lambda rung: out / "pruned",
        lambda rung: compact,
        [*map(str, common)],
        ["--recipe", str(prune_recipe), *map(str, prune_options)],
        ["--recipe", str(finetune_recipe), *map(str, finetune_options)],
        latency_table=out / "latency.json",
    ).climb(do_here)
    return load(compact / "config.yaml", compact / FINETUNED, **decoding)


def hold_out(source: Path, folder: Path) -> dict[str, Path]:
    """Split a data directory in two, for training and for validation."""
    whole = read_data_dir(source)
    names = sorted(whole.text)
    if len(names) < 2:
        raise InputError(source, "holds one utterance", "give more, or valid=")
    parts = {"valid": set(names[::HELD_OUT])}
    parts["train"] = set(names) - parts["valid"]
    for name, kept in parts.items():
        write_data_dir(folder / name, whole.subset(kept))
    return {name: folder / name for name in ("train", "valid")}

"""Check before a training: the GPUs, the right audio, and the right run to resume.

ESPnet writes the new ``config.yaml`` and goes on from the old ``checkpoint.pth``: other
tokens, another recipe or another target would train, or decode, the wrong model without
a word.
"""

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.tasks.abs_task import AbsTask

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import (
    MADE_OF,
    fingerprint,
    read_yaml,
    write_json,
    write_yaml,
)
from espnet_prune.data.audio import AUDIO_DIGEST, check_rate
from espnet_prune.families.espnet.checkpoint import read_state, sampling_rate
from espnet_prune.families.espnet.tasks import Task
from espnet_prune.measuring.latency import settle_table
from espnet_prune.training.resume import COUNTERS
from espnet_prune.training.three_stages import THREE_STAGES

DATA_OPTIONS = tuple(
    f"--{part}_data_path_and_name_and_type" for part in ("train", "valid")
)
STUDENT = "student.yaml"  # the config of a student's training, in its directory

# What may change between two parts of one training: where it runs, and what is logged
# of it.
FREE = (
    "config", "output_dir", "resume", "ngpu", "num_workers", "log_level",
    "log_interval", "use_tensorboard", "use_matplotlib", "keep_nbest_models",
    "num_att_plot", "dry_run", "init_param", "teacher_config", "teacher_model",
)  # fmt: skip


def refuse_another_run(options: argparse.Namespace) -> None:
    """Compare with what the directory was begun with; remember it if it is new.

    Args:
        options: of an ESPnet training.

    Raises:
        InputError: its ``output_dir`` holds a training of other options, data or
            weights.
    """
    output_dir = Path(options.output_dir)
    # ESPnet's form: path:source:destination:excluded
    weights = [parameter.split(":")[0] for parameter in options.init_param]
    weights.append(getattr(options, "teacher_model", None))
    # Stage 12 starts from its teacher: no file is read twice.
    digests = {path: state_digest(path) for path in set(weights) - {None}}
    kept, files = described(options)
    now = {
        "weights": [digests[path] for path in weights if path is not None],
        "options": {part: digest(value) for part, value in (kept | files).items()},
    }
    origin = output_dir / "origin.json"
    # What a training leaves, and what a method without one does.
    held = any((output_dir / n).exists() for n in ("checkpoint.pth", "latest.pth"))
    if origin.exists() and held and (begun := json.loads(origin.read_text())) != now:
        old, new = begun["options"], now["options"]
        other = sorted(p for p in old | new if old.get(p) != new.get(p))
        if other == ["max_epoch"]:
            refuse_other_length(options)
        named = f" ({', '.join(other)})" if other else ""
        raise InputError(
            output_dir,
            f"holds a training of other options, data or weights{named}",
            "move it away, or train in another: by --tag of run.sh (and what it then "
            "needs: see docs/troubleshooting.md) or --asr_exp of asr.sh",
        )
    write_json(origin, now)


def refuse_other_length(options: argparse.Namespace) -> None:
    """Refuse to go on with a training that was planned for other epochs.

    The target of a pruning would fall back, or jump: it rises over a share of all
    steps. So would the learning rates of its gates, and that of three stages.
    """
    what = "target rises" if is_gated(options) else "learning rate falls"
    planned = read_yaml(Path(options.output_dir) / "config.yaml")["max_epoch"]
    raise InputError(
        f"--max_epoch {options.max_epoch}",
        f"{options.output_dir} was begun for {planned} epochs, over which its {what}",
        f"give --max_epoch {planned}, or train anew in another directory",
    )


def is_gated(options: argparse.Namespace) -> bool:
    """Tell whether a training is a pruning."""
    return (options.model_conf or {}).get("gates") is not None


def settled(
    task: type[AbsTask],
    output_dir: Path,
    command: Sequence[str],
    plan: Callable[[], dict[str, Any]],
    check: Callable[[argparse.Namespace, dict[str, Any]], None] = lambda *_: None,
) -> argparse.Namespace:
    """The function writes a student's training config, ``student.yaml``, once nothing
    is wrong with it; what is refused leaves the directory as it was.

    Args:
        task: of the training.
        output_dir: of the training.
        command: ESPnet's options beside that config.
        plan: makes the config, and perhaps a latency table.
        check: refuses what its family does not take, given options and config.

    Returns:
        the training's options.
    """
    new = output_dir / "student.new.yaml"
    try:
        student = plan()
        write_yaml(new, student)
        options = task.get_parser().parse_args(["--config", str(new), *command])
        check(options, student)
        refuse_multiple_iterator(options)
        refuse_missing_gpus(options.ngpu)
        refuse_another_run(options)
        settle_table(output_dir)
        new.replace(output_dir / STUDENT)
        return options
    finally:
        new.unlink(missing_ok=True)
        settle_table(output_dir, keep=False)


def going_on(previous: Path | None) -> list[str]:
    """Return options by which a pruning goes on from another's gates and multipliers.

    It does not go on from that one's count of the steps.
    """
    if previous is None:
        return []
    return ["--init_param", f"{previous / 'latest.pth'}:::{COUNTERS}"]


def averaged_name(criteria: Sequence[Sequence[str]]) -> str:
    """Give ESPnet's name of the averaged weights, by a training's first criterion."""
    phase, key, *_ = criteria[0]
    return f"{phase}.{key}.ave.pth"


def refuse_missing_gpus(asked: int, option: str = "") -> None:
    """Refuse ``--ngpu`` where torch sees fewer; ESPnet would end in a traceback.

    Args:
        asked: how many.
        option: by which, if not by ``--ngpu``.

    Raises:
        InputError: there are fewer.
    """
    if asked > (seen := torch.cuda.device_count()):
        raise InputError(
            option or f"--ngpu {asked}",
            f"torch {torch.__version__} sees {seen} GPUs here",
            f"{'leave it out' if option else 'give --ngpu 0'}, or start where they are "
            "(and not hidden by CUDA_VISIBLE_DEVICES)",
        )


def refuse_wrong_rate(options: argparse.Namespace) -> None:
    """Refuse data of another sampling rate than the model's frontend is made for.

    Raises:
        InputError: names the table.
    """
    for path, name, kind in (
        *options.train_data_path_and_name_and_type,
        *options.valid_data_path_and_name_and_type,
    ):
        if name == "speech" and kind in ("sound", "kaldi_ark"):
            for table in pieces(path)[:1]:
                check_rate(table, sampling_rate(options), "the model")


def with_texts(options: Sequence[str], task: Task) -> list[str]:
    """Add to a command line of ESPnet the texts of a task that lie beside ``text``.

    Args:
        options: the command line.
        task: of the model.
    """
    pairs = list(itertools.pairwise(options))
    given = {(option, tuple(value.split(",")[1:])) for option, value in pairs}
    found = []
    for option, value in pairs:
        path, *rest = value.split(",")
        if option in DATA_OPTIONS and rest == ["text", "text"]:
            for file in task.texts:
                name, beside = file.replace(".", "_"), Path(path).parent / file
                if (option, (name, "text")) not in given and beside.exists():
                    found += [option, f"{beside},{name},text"]
    return [*options, *found]


def refuse_missing_texts(options: argparse.Namespace, task: Task) -> None:
    """Refuse data without a text that a training of a task learns from.

    Raises:
        InputError: names the texts.
    """
    for option in DATA_OPTIONS:
        given = {name for _, name, _ in getattr(options, option.removeprefix("--"))}
        names = [file.replace(".", "_") for file in task.texts]
        if missing := [name for name in names if name not in given]:
            what = f"gives no {' and no '.join(missing)}, which {task.name} learns from"
            mend = f"add FILE,{missing[0]},text, or the files beside text: docs/owsm.md"
            raise InputError(option, what, mend)


def refuse_multiple_iterator(options: argparse.Namespace) -> None:
    """Refuse split data for a student: it plans its run by the number of batches.

    Raises:
        InputError: ``--multiple_iterator`` was given.
    """
    if options.multiple_iterator:
        raise InputError(
            "--multiple_iterator",
            "a student must know its number of batches, which split data do not tell",
            "leave it out, or asr.sh's --num_splits_asr",
        )


def pieces(path: str | Path) -> list[Path]:
    """List a table of data, or those that asr.sh's ``--num_splits_asr`` made of it."""
    path = Path(path)
    return sorted(path.glob("split.*")) if path.is_dir() else [path]


def described(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Collect options that make the training, and fingerprints of the files named."""
    # Others may train on for longer: their learning rate is planned anew.
    planned = is_gated(options) or options.scheduler == THREE_STAGES
    free = FREE if planned else (*FREE, "max_epoch")
    kept = {
        key: value
        for key, value in vars(options).items()
        if key not in free and not key.startswith(("dist_", "multiprocessing_"))
    }
    files = [getattr(options, name, None) for name in ("token_list", "bpemodel")]
    # Of Hugging Face directories a config names only the folder.
    for name in ("dense", "compact"):
        if folder := (options.model_conf or {}).get(name):
            held = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")]
            files += map(str, sorted([*held, Path(folder, "config.json")]))
    files += [*options.train_shape_file, *options.valid_shape_file]
    for path, _, form in (
        *options.train_data_path_and_name_and_type,
        *options.valid_data_path_and_name_and_type,
    ):
        files += [str(path)] if form == "text" else []
        # What the audio is, or was made of, is noted beside it: no need to read it.
        notes = AUDIO_DIGEST, MADE_OF
        folders = [*Path(path).parents][:2]
        noted = [folder / note for folder in folders for note in notes]
        files += [str(path) for path in noted if path.is_file()][:1]
    files += ((options.model_conf or {}).get("sizes") or {}).values()
    named = [p for f in files if isinstance(f, str) for p in pieces(f) if p.is_file()]
    return kept, {str(file): fingerprint(file) for file in named}


def digest(value: Any) -> str:
    """Compute the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def state_digest(weights: str | Path) -> str:
    """Compute the SHA-256 of a model's tensors, however the file wraps them."""
    digest = hashlib.sha256()
    for key, value in sorted(read_state(weights).items()):
        digest.update(key.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

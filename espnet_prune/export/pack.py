"""Pack a model in one zip: ESPnet's format, with a model card.

``Speech2Text.from_pretrained(zip)`` and ``espnet_model_zoo`` unpack and load it, once
``espnet_prune`` is imported; unpacked, the files are a Hugging Face repository.
"""

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_path, read_yaml, write_text
from espnet_prune.config.rungs import SIZES
from espnet_prune.families.espnet.checkpoint import (
    load_model,
    rename_resource,
    resources,
)
from espnet_prune.families.espnet.frontend import self_contained
from espnet_prune.families.espnet.tasks import task_of

# What a config names, under its name in the archive.
NAMES = {
    "bpemodel": "bpe.model",
    "normalize_conf.stats_file": "feats_stats.npz",
    "non_linguistic_symbols": "nlsyms.txt",
}
LANGUAGE_MODEL = {"lm_train_config": "lm_config.yaml", "lm_file": "lm.pth"}


def pack(
    config: Path,
    weights: Path,
    card: str,
    out: Path,
    language_model: Mapping[str, Path] | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Write the zip; it appears under its name only once it loads.

    Args:
        config: of a model; a compact one's in the directory that stage 13 leaves.
        weights: of it.
        card: the README of the archive.
        out: the zip.
        language_model: files to decode it with, by the names of
            :data:`LANGUAGE_MODEL`, which are ESPnet's.
        beside: further files and directories, which keep their paths; what the archive
            has under another name, or what is not there, is left out.

    Raises:
        InputError: a file is missing, or does not fit another; or ``out`` is no zip.
    """
    # Here, because it takes seconds.
    from espnet2.main_funcs import pack_funcs

    if out.suffix != ".zip":
        raise InputError(out, "does not end in .zip")
    model, _ = load_model(config, weights)
    values = read_yaml(config)
    if values.get("frontend_conf"):
        values["frontend_conf"] = self_contained(values["frontend_conf"], model)
    task = task_of(values)
    configs = {task.config_option: "config.yaml"}
    files = {task.weights_option: "model.pth"}
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        for path in beside:
            copy_beside(path, stage)
        for option, path in (language_model or {}).items():
            if not path.is_file():
                raise InputError(path, "does not exist", f"leave out --{option}")
            name = LANGUAGE_MODEL[option]
            shutil.copy(path, stage / name)
            (configs if name.endswith(".yaml") else files)[option] = name
        for option, path in resources(values).items():
            shutil.copy(path, stage / NAMES[option])
            rename_resource(values, option, NAMES[option])
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text(stage / "config.yaml", text)
        shutil.copy(weights, stage / "model.pth")
        for name in ("pruning.json", SIZES):
            if (told := config.parent / name).exists():
                shutil.copy(told, stage)
        write_text(stage / "README.md", card)
        named = {*configs.values(), *files.values()}
        others = sorted({path.name for path in stage.iterdir()} - named)
        with atomic_path(out.absolute()) as temporary:
            archive = temporary.with_suffix(".zip")  # ESPnet goes by the suffix
            quiet = contextlib.redirect_stdout(io.StringIO())
            try:
                with contextlib.chdir(stage), quiet:
                    pack_funcs.pack(files, configs, archive, others)
                files = pack_funcs.unpack(archive, stage / "again", use_cache=False)
                load_model(files[task.config_option], files[task.weights_option])
                archive.replace(temporary)
            finally:
                archive.unlink(missing_ok=True)
    logging.info(f"{out}: {out.stat().st_size / 1e6:.1f} MB; loads strictly")


def copy_beside(path: Path, stage: Path) -> None:
    """Copy what is packed under its own path, below the working directory, or name."""
    if path.name in NAMES.values():
        return  # the model's own is there
    if not path.exists():
        logging.info(f"{path} is not there: left out of the archive")
        return
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    inside = absolute.relative_to(here) if absolute.is_relative_to(here) else path.name
    target = stage / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copy(path, target)

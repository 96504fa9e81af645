"""Pack a model in one zip: ESPnet's format, with a model card.

``Speech2Text.from_pretrained(zip)`` and ``espnet_model_zoo`` unpack and load it, once
``espnet_prune`` is imported; unpacked, the files are a Hugging Face repository.
"""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import yaml

from espnet_prune.base.files import atomic_path, read_yaml, write_text
from espnet_prune.families.espnet.checkpoint import (
    load_model,
    rename_resource,
    resources,
)
from espnet_prune.families.espnet.tasks import task_of

# What a config names, under its name in the archive.
NAMES = {
    "bpemodel": "bpe.model",
    "normalize_conf.stats_file": "feats_stats.npz",
    "non_linguistic_symbols": "nlsyms.txt",
}


def pack(compact: Path, weights: str, card: str, out: Path) -> None:
    """Write the zip; it appears under its name only once it loads.

    Args:
        compact: directory of a compact model, as stage 13 leaves it.
        weights: name of the file of weights in it.
        card: the README of the archive.
        out: the zip.

    Raises:
        InputError: a file is missing, or does not fit another.
    """
    # Here, because it takes seconds.
    from espnet2.main_funcs import pack_funcs

    config = compact / "config.yaml"
    load_model(config, compact / weights)
    values = read_yaml(config)
    task = task_of(values)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        for option, path in resources(values).items():
            shutil.copy(path, stage / NAMES[option])
            rename_resource(values, option, NAMES[option])
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text(stage / "config.yaml", text)
        shutil.copy(compact / weights, stage / "model.pth")
        shutil.copy(compact / "pruning.json", stage / "pruning.json")
        write_text(stage / "README.md", card)
        others = sorted(
            {p.name for p in stage.iterdir()} - {"config.yaml", "model.pth"}
        )
        with atomic_path(out.absolute()) as temporary:
            archive = temporary.with_suffix(".zip")  # ESPnet goes by the suffix
            quiet = contextlib.redirect_stdout(io.StringIO())
            try:
                with contextlib.chdir(stage), quiet:
                    pack_funcs.pack(
                        {task.weights_option: "model.pth"},
                        {task.config_option: "config.yaml"},
                        archive,
                        others,
                    )
                files = pack_funcs.unpack(archive, stage / "again", use_cache=False)
                load_model(files[task.config_option], files[task.weights_option])
                archive.replace(temporary)
            finally:
                archive.unlink(missing_ok=True)

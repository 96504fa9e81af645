"""A model in one zip: ESPnet's format, with a model card.

``Speech2Text.from_pretrained(zip)`` and ``espnet_model_zoo`` unpack and load it, once
``espnet_prune`` is imported; unpacked, the files are a Hugging Face repository.
"""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from espnet_prune import __version__
from espnet_prune.base.files import atomic_path, read_yaml, write_text
from espnet_prune.config.methods import METHODS
from espnet_prune.families.espnet.checkpoint import (
    load_model,
    rename_resource,
    resources,
    sampling_rate,
)
from espnet_prune.report.caveats import caveats
from espnet_prune.report.tables import (
    channels_sentence,
    main_table,
    pruning_sentence,
)

# What a config names, under its name in the archive.
NAMES = {
    "bpemodel": "bpe.model",
    "normalize_conf.stats_file": "feats_stats.npz",
    "non_linguistic_symbols": "nlsyms.txt",
}

CARD = """\
---
license: {license}
library_name: espnet
tags: [espnet, audio, automatic-speech-recognition, espnet_prune]
---

# {name}

A compact ASR model for [ESPnet2](https://github.com/espnet/espnet), made from a trained
one by espnet_prune {version}. Corpus: {corpus}.{note}

{pruned}

{table}
In brackets: change against the dense model that it was made from. p: paired bootstrap
against it. RTF: seconds of computing per second of audio, one utterance at a time, on
{machine}.

## Use it

In an environment with ESPnet {espnet} and `espnet_prune`:

```python
import espnet_prune  # lets ESPnet build the compact encoder
import soundfile
from espnet2.bin.asr_inference import Speech2Text

# The path of the zip, or the name of the repository on Hugging Face.
speech2text = Speech2Text.from_pretrained("{name}.zip")
speech, rate = soundfile.read("my.wav")  # mono, at {rate} Hz
text, *_ = speech2text(speech)[0]
```

`pruning.json` says what was removed, block by block.
"""


def pack(
    compact: Path, weights: str, report: dict[str, Any], license: str, note: str,
    out: Path,
) -> None:  # fmt: skip
    """Write the zip; it appears under its name only once it loads.

    Args:
        compact: directory of a compact model, as stage 13 leaves it.
        weights: name of the file of weights in it.
        report: of ``report.json``: its rows (dense, and of this model), for the card.
        license: as Hugging Face abbreviates it.
        note: a sentence for the card.
        out: the zip.

    Raises:
        InputError: a file is missing, or does not fit another.
    """
    # Here, because it takes seconds.
    from espnet2.main_funcs import pack_funcs

    config = compact / "config.yaml"
    _, args = load_model(config, compact / weights)
    rate = sampling_rate(args)
    values = read_yaml(config)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        for option, path in resources(values).items():
            shutil.copy(path, stage / NAMES[option])
            rename_resource(values, option, NAMES[option])
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text(stage / "config.yaml", text)
        shutil.copy(compact / weights, stage / "model.pth")
        shutil.copy(compact / "pruning.json", stage / "pruning.json")
        write_text(stage / "README.md", card(compact, report, license, note, rate))
        others = sorted(
            {p.name for p in stage.iterdir()} - {"config.yaml", "model.pth"}
        )
        with atomic_path(out.absolute()) as temporary:
            archive = temporary.with_suffix(".zip")  # ESPnet goes by the suffix
            quiet = contextlib.redirect_stdout(io.StringIO())
            try:
                with contextlib.chdir(stage), quiet:
                    pack_funcs.pack(
                        {"asr_model_file": "model.pth"},
                        {"asr_train_config": "config.yaml"},
                        archive,
                        others,
                    )
                files = pack_funcs.unpack(archive, stage / "again", use_cache=False)
                load_model(files["asr_train_config"], files["asr_model_file"])
                archive.replace(temporary)
            finally:
                archive.unlink(missing_ok=True)


def card(
    compact: Path, report: dict[str, Any], license: str, note: str, rate: int
) -> str:
    """The README of the archive."""
    pruning = json.loads((compact / "pruning.json").read_text(encoding="utf-8"))
    machine = (report["environment"]["measured_on"] or {}).get("cpu", "no machine yet")
    pruned = pruning_sentence(pruning)
    if METHODS[pruning["method"]].gated:
        pruned += f" {channels_sentence(pruning)}"
    return CARD.format(
        license=license,
        name=compact.name,
        version=__version__,
        espnet=report["environment"]["packages"]["espnet"],
        corpus=report["corpus"],
        note="".join(f" {text}" for text in (*caveats(report), note) if text),
        pruned=pruned,
        table=main_table(report["rows"]).markdown(),
        machine=machine,
        rate=rate,
    )

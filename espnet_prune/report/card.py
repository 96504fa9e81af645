"""The model card of a compact model: what it is, what it cost, how to load it."""

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_prune import __version__
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.families.espnet.checkpoint import sampling_rate
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.report.caveats import caveats
from espnet_prune.report.tables import channels_sentence, main_table, pruning_sentence

HEAD = """\
---
{license}library_name: espnet
tags: [espnet, audio, automatic-speech-recognition, espnet_prune]
---

# {name}

{what} for [ESPnet2](https://github.com/espnet/espnet), made with
espnet_prune {version}.{about}

"""
PRUNED = """\
{pruned} `pruning.json` says what was removed, block by block.

"""
RESULTS = """\
{table}
Beside a cost: its change against the dense model that it was made from. p: paired
bootstrap against it. RTF: seconds of computing per second of audio, one utterance at a
time, on {machine}, with the encoder as `espnet_prune.serving.load.set_precision` makes
it.

"""
USE = """\
## Use it

In an environment with ESPnet {espnet} and `espnet_prune`:

```python
import espnet_prune  # lets ESPnet build the compact encoder
import soundfile
from espnet2.bin.{task}_inference import Speech2Text
from espnet_prune.serving.load import set_precision

# The path of the zip, or the name of the repository on Hugging Face.
speech2text = Speech2Text.from_pretrained("{archive}")
set_precision(speech2text, "fp32")  # faster on CPUs, also "int8"; leave out for torch
speech, rate = soundfile.read("my.wav")  # mono, at {rate} Hz
text, *_ = speech2text(speech)[0]
```
"""


def card(compact: Path, report: dict[str, Any], license: str, note: str) -> str:
    """Write the README of a packed model.

    Args:
        compact: directory of a compact model, as stage 13 leaves it.
        report: of ``report.json``: its rows (dense, and of this model).
        license: as Hugging Face abbreviates it.
        note: a sentence for it.
    """
    said = f"Corpus: {report['corpus']}.", *caveats(report), note
    machine = (report["environment"]["measured_on"] or {}).get("cpu", "no machine yet")
    return plain_card(
        compact / "config.yaml",
        f"{compact.name}.zip",
        f"license: {license}\n",
        "".join(f" {text}" for text in said if text),
        RESULTS.format(table=main_table(report["rows"]).markdown(), machine=machine),
    )


def plain_card(
    config: Path, archive: str, license: str = "", about: str = "", results: str = ""
) -> str:
    """Write the README of a packed model of which there may be no report.

    Args:
        config: of the model; a ``pruning.json`` may lie beside it.
        archive: name of the zip.
        license: line of the card's metadata.
        about: sentences, each with a blank before it.
        results: what was measured.
    """
    pruned, told = "", config.parent / "pruning.json"
    what = "A compact ASR model" if told.exists() else "An ASR model"
    if told.exists():
        pruning = json.loads(told.read_text(encoding="utf-8"))
        pruned = pruning_sentence(pruning)
        if METHODS[pruning["method"]].gated:
            pruned += f" {channels_sentence(pruning)}"
        pruned = PRUNED.format(pruned=pruned)
    name = archive.removesuffix(".zip")
    head = HEAD.format(
        license=license, name=name, what=what, version=__version__, about=about
    )
    values = read_yaml(config)
    use = USE.format(
        espnet=metadata.version("espnet"),
        archive=archive,
        rate=sampling_rate(argparse.Namespace(**values)),
        task=task_of(values).name,
    )
    return head + pruned + results + use

"""The model card of a compact model: what it is, what it cost, how to load it."""

import argparse
import json
from pathlib import Path
from typing import Any

from espnet_prune import __version__
from espnet_prune.base.files import read_yaml
from espnet_prune.config.methods import METHODS
from espnet_prune.families.espnet.checkpoint import sampling_rate
from espnet_prune.families.espnet.tasks import task_of
from espnet_prune.report.caveats import caveats
from espnet_prune.report.tables import channels_sentence, main_table, pruning_sentence

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
{machine}, with the encoder as `espnet_prune.serving.load.set_precision` makes it.

## Use it

In an environment with ESPnet {espnet} and `espnet_prune`:

```python
import espnet_prune  # lets ESPnet build the compact encoder
import soundfile
from espnet2.bin.{task}_inference import Speech2Text
from espnet_prune.serving.load import set_precision

# The path of the zip, or the name of the repository on Hugging Face.
speech2text = Speech2Text.from_pretrained("{name}.zip")
set_precision(speech2text, "fp32")  # faster on CPUs, also "int8"; leave out for torch
speech, rate = soundfile.read("my.wav")  # mono, at {rate} Hz
text, *_ = speech2text(speech)[0]
```

`pruning.json` says what was removed, block by block.
"""


def card(compact: Path, report: dict[str, Any], license: str, note: str) -> str:
    """Write the README of a packed model.

    Args:
        compact: directory of a compact model, as stage 13 leaves it.
        report: of ``report.json``: its rows (dense, and of this model).
        license: as Hugging Face abbreviates it.
        note: a sentence for it.
    """
    pruning = json.loads((compact / "pruning.json").read_text(encoding="utf-8"))
    machine = (report["environment"]["measured_on"] or {}).get("cpu", "no machine yet")
    config = read_yaml(compact / "config.yaml")
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
        rate=sampling_rate(argparse.Namespace(**config)),
        task=task_of(config).name,
    )

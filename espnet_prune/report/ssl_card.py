"""The model card of a compact self-supervised encoder."""

from typing import Any

from espnet_prune import __version__
from espnet_prune.report.ssl import READING, caveats, main_table

CARD = """\
---
library_name: transformers
tags: [audio, speech, self-supervised, espnet_prune]
---

# {name}

A {kind} encoder, made smaller from `{dense}` by espnet_prune {version} ({method}): \
{gone} gone, {params:.2f} M parameters left. What it may be used for is what the dense \
model's licence says.

```python
from transformers import AutoModel

# The code of the model is in the directory; it needs torch and transformers 5 alone.
model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
```

`AutoModelForCTC` and `AutoModelForAudioClassification` fine-tune it alike. Audio is \
mono at 16 kHz{normalized}. `pruning.json` says what was removed.
"""


def card(
    name: str,
    told: dict[str, Any],
    normalize: bool,
    report: dict[str, Any] | None = None,
    note: str = "",
) -> str:
    """Write the README of a compact model's directory.

    Args:
        name: of the model.
        told: content of ``pruning.json``.
        normalize: whether the model wants audio of mean 0 and variance 1.
        report: content of ``report.json``, once there is one.
        note: what its reader must know, too.
    """
    removed = ", ".join(f"{v:.1%} of the {k}" for k, v in told["removed"].items())
    text = CARD.format(
        name=name,
        kind=told["kind"],
        dense=told["dense"],
        version=__version__,
        method=told["method"],
        gone=removed,
        params=told["params"] / 1e6,
        normalized=", brought to mean 0 and variance 1" if normalize else "",
    )
    if report is None:
        return text
    parts = [text for text in [note, *caveats(report)] if text]
    parts.append(READING.format(seconds=report["seconds"]))
    table = main_table(report).markdown()
    return f"{text}\n## Measured\n\n{table}\n" + "\n\n".join(parts) + "\n"

"""List the ESPnet encoders that can be pruned, and the options that each must have.

The list is Markdown, for a page of the documentation: what the registry says, so that
the page cannot say anything else.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from espnet_prune.families.espnet.prunable import DECODERS, SELF_SUPERVISED
from espnet_prune.families.espnet.rules import DECODER, FRONTEND, Rules
from espnet_prune.families.registry import CAPABILITIES, KINDS, TAKES, UPSTREAM, Kind
from espnet_prune.families.ssl.fairseq import UPSTREAMS

HEARD_BY = (
    "HuBERT, WavLM or wav2vec 2.0 of a Hugging Face directory, by "
    f"`upstream: {UPSTREAM}` ([how](ssl.md#prune-the-encoder-inside-a-recognizer)). "
    "Of s3prl's own upstreams, [translated](ssl.md#with-an-upstream-of-s3prls-own) "
)


def listed() -> str:
    """Write the list, a section for each kind of encoder, for decoder and frontend."""
    parts = [part for kind in KINDS.values() for part in of_kind(kind)]
    parts += [f"## Decoder: `{DECODERS[0]}`", *of_rules(DECODER)]
    heard_by = f"{HEARD_BY}once: {codes(UPSTREAMS)}."
    parts += [f"## Frontend: `{SELF_SUPERVISED}`", heard_by, *of_rules(FRONTEND)]
    return "\n\n".join(parts)


def of_kind(kind: Kind) -> Iterator[str]:
    """Write the section of a kind of encoder."""
    yield f"## Encoder: `{kind.name}`"
    yield f"Its groups, which can have targets of their own: {codes(kind.groups)}."
    cannot = [CAPABILITIES[c][0] for c in CAPABILITIES if c not in kind.can]
    if cannot:
        yield f"Limits: {'; '.join(cannot)}."
    for option in sorted(TAKES.keys() & kind.rules.free):
        lost = [
            what
            for c, (what, _) in CAPABILITIES.items()
            if c in TAKES[option] & kind.can
        ]
        if lost:
            yield f"With `{option}`: {'; '.join(lost)}."
    yield from of_rules(kind.rules)


def of_rules(rules: Rules) -> Iterator[str]:
    """Write what options of an encoder or decoder must be, and which are free."""
    lines = [f"| option of `{rules.section}` | must be | because |", "|---|---|---|"]
    for name, (value, why) in rules.required.items():
        values = value if isinstance(value, tuple) else (value,)
        must = " or ".join(f"`{written(v)}`" for v in values)
        lines.append(f"| `{name}` | {must} | {why} |")
    yield "\n".join(lines)
    yield f"These may have any value: {codes(rules.free)}."
    if rules.left_out:
        yield f"Left out of the student's training: {codes(rules.left_out)}."


def codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def written(value: Any) -> str:
    """Write a value as YAML has it."""
    return json.dumps(value).strip('"')

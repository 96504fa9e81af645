"""The report on self-supervised encoders: numbers as JSON first, the page from them."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from espnet_prune import __version__
from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import REFERENCE
from espnet_prune.families.ssl.directory import fingerprint_of, name_of, named
from espnet_prune.report.page import Heading, Paragraph, Part, Picture
from espnet_prune.report.plots import png
from espnet_prune.report.rendering import DASH, Table
from espnet_prune.report.ssl_summary import picture, sentences

REFERENCES = ("log_mel", "untrained")
READING = (
    "In brackets: what is gone of the dense model; of probes, 95 % by bootstrap. GMAC "
    "and RTF (seconds of computing per second of audio, one thread, fp32 by torch; "
    "onnx and int8: by onnxruntime) are of one utterance of {seconds:g} s. log_mel: "
    "log mel energies with deltas, untrained: the dense network with random weights. "
    "Probes are small heads on frozen features, in the form of SUPERB's (arXiv "
    "2105.01051), on other data than SUPERB's."
)
SCORE = (
    "Score: 1000 x (value - log_mel) / (dense - log_mel), the mean over {probes}: "
    "log_mel has 0, dense 1000."
)
BEHIND = (
    "The dense model is not ahead of log mel energies in {probes}: there is no score "
    "of that, and no claim beyond compact against dense."
)
LEANS = (
    "{probes}: the head of the dense model leans on layer 0, what goes into the "
    "blocks. That says little about pruned blocks above."
)


def read(file: Path, made_by: str) -> dict[str, Any]:
    """Read what an earlier stage left.

    Raises:
        InputError: it is missing.
    """
    if not file.is_file():
        raise InputError(file, "is missing", f"run {made_by}")
    return json.loads(file.read_text(encoding="utf-8"))


def collect(folder: Path, dense: Path, compact: Sequence[Path]) -> dict[str, Any]:
    """Collect the content of ``report.json``.

    Args:
        folder: with ``measured.json``, and ``probes.json`` where there are probes.
        dense: directory of the dense model.
        compact: directories of the compact models.

    Raises:
        InputError: a model has not been measured, or has changed since.
    """
    measured = read(folder / "measured.json", "stage 6")
    probed = {"probes": {}, "systems": {}}
    if (folder / "probes.json").is_file():
        probed = read(folder / "probes.json", "stage 5")
    rows = [{"system": name, "method": None} for name in REFERENCES]
    rows = [*(rows if probed["probes"] else []), {"system": "dense", "method": None}]
    names = [row["system"] for row in rows]
    for path in compact:
        told = read(path / "pruning.json", "stage 4")
        names.append(path.name)
        system = "compact" if told["method"] == REFERENCE else told["method"]
        rows.append({"system": system, "name": path.name, "method": told["method"]})
        rows[-1] |= {"target": told["target"], "removed": told["removed"]}
    check_fresh(folder, {"dense": dense} | named(compact), measured, probed)
    for row, name in zip(rows, names, strict=True):
        costs = measured["systems"].get(name)
        row |= {key: v for key, v in (costs or {}).items() if key != "weights"}
        own = probed["systems"].get(name, {})
        row["quality"] = {
            probe: {
                "value": own[probe]["value"],
                "unit": about["unit"],
                "ci": own[probe]["ci"],
                "layers": own[probe].get("layers"),
            }
            for probe, about in probed["probes"].items()
            if probe in own
        }
    report = {"rows": rows, "probes": probed["probes"], "dense": name_of(dense)}
    report |= {k: v for k, v in measured.items() if k != "systems"}
    report["scored"] = scored(rows, probed["probes"])
    for row in rows:
        row["score"] = score(row, rows, report["scored"])
    return report


def check_fresh(
    folder: Path,
    models: Mapping[str, Path],
    measured: dict[str, Any],
    probed: dict[str, Any],
) -> None:
    """Refuse numbers of weights that are no longer there.

    Args:
        folder: where they are.
        models: directories by name.
        measured, probed: what stages 6 and 5 left.
    """
    times = {name: own["weights"] for name, own in measured["systems"].items()}
    for file, stage, known in (
        ("measured.json", 6, times),
        ("probes.json", 5, probed.get("weights")),
    ):
        for name, path in models.items() if known is not None else ():
            if known.get(name) != fingerprint_of(path):
                what = f"is not of the {name} that is in {path}"
                raise InputError(folder / file, what, f"run stage {stage} again")


def scored(rows: list[dict[str, Any]], probes: dict[str, Any]) -> list[str]:
    """Name the probes in which the dense model is ahead of log mel energies.

    These are outside its interval there: a score over less would be a division by
    noise.
    """
    (dense,) = (row for row in rows if row["system"] == "dense")
    found = []
    for name, about in probes.items():
        low = value_of(rows, "log_mel", name)
        least, most = dense["quality"].get(name, {}).get("ci", (None, None))
        if None not in (low, least) and (
            least > low if about["higher"] else most < low
        ):
            found.append(name)
    return found


def value_of(rows: list[dict[str, Any]], system: str, probe: str) -> float | None:
    """Find the value that a system has in a probe."""
    (row,) = (row for row in rows if row["system"] == system)
    return row["quality"].get(probe, {}).get("value")


def score(
    row: dict[str, Any], rows: list[dict[str, Any]], probes: Sequence[str]
) -> float | None:
    """Compute SUPERB's form of a score over some probes; None where one is missing."""
    found = []
    for name in probes:
        if name not in row["quality"]:
            return None
        low, high = (value_of(rows, system, name) for system in ("log_mel", "dense"))
        found.append(1000 * (row["quality"][name]["value"] - low) / (high - low))
    return float(np.mean(found)) if found else None


def build(report: dict[str, Any], note: str = "") -> list[Part]:
    """Lay the report out, top to bottom."""
    parts: list[Part] = [Paragraph(note, warning=True)] if note else []
    parts += [Paragraph(text) for text in told(report)]
    parts += [Paragraph(text, warning=True) for text in caveats(report)]
    parts += [Heading("Dense against compact"), main_table(report)]
    parts.append(Paragraph(READING.format(seconds=report["seconds"])))
    if report["scored"]:
        parts.append(Paragraph(SCORE.format(probes=", ".join(report["scored"]))))
    if figure := picture(report):
        parts.append(Picture("pareto_1.png", "Quality against cost", png(figure)))
    if report["probes"]:
        parts += [
            Heading("Probes"),
            Table(
                ["probe", "kind", "unit", "trained on", "tested on"],
                [
                    [name, about["kind"], about["unit"], about["train"], about["test"]]
                    for name, about in report["probes"].items()
                ],
            ),
        ]
    layers = layer_table(report["rows"])
    if layers is not None:
        parts += [Heading("Weights of the layers"), layers]
    machine = report["machine"]
    by = f"{machine['cpu']}, {machine['threads']} thread(s), torch {report['torch']}"
    by += f", transformers {version('transformers')}, espnet_prune {__version__}"
    about = f"Pruned from {report['dense']}. Timed on {by}, {report['date']}."
    return [*parts, Heading("Environment"), Paragraph(about)]


def told(report: dict[str, Any]) -> list[str]:
    """Say of each compact model what it has won and lost."""
    return sentences(report, [label(row) for row in report["rows"]])


def caveats(report: dict[str, Any]) -> list[str]:
    """Say what a reader of the numbers must know."""
    found = []
    if report["machine"]["warning"]:
        found.append(f"The times are not reliable: {report['machine']['warning']}.")
    behind = [name for name in report["probes"] if name not in report["scored"]]
    if behind:
        found.append(BEHIND.format(probes=", ".join(behind)))
    dense = next(row for row in report["rows"] if row["system"] == "dense")
    leaning = [
        name
        for name, own in dense["quality"].items()
        if own["layers"] and own["layers"][0] > 0.5
    ]
    if leaning:
        found.append(LEANS.format(probes=", ".join(leaning)))
    return found


def label(row: dict[str, Any]) -> str:
    """Name a row: ``dense``, ``compact -50 % params``."""
    if "target" not in row:
        return row["system"]
    target = row["target"]
    return f"{row['system']} -{100 * target['value']:g} % {target['kind']}"


def main_table(report: dict[str, Any]) -> Table:
    """Make the main table, with what is gone beside the dense model."""
    rows = report["rows"]
    dense = next(row for row in rows if row["system"] == "dense")

    def shown(row: dict[str, Any], key: str, unit: float) -> str:
        if key not in row:
            return DASH
        told = ""
        if row is not dense and key in dense:
            told = f" ({100 * (row[key] / dense[key] - 1):+.0f} %)"
        return f"{row[key] / unit:.3g}{told}"

    lines = []
    for row in rows:
        cells = [label(row), shown(row, "params", 1e6), shown(row, "macs", 1e9)]
        cells += [shown(row, key, 1) for key in ("rtf", "rtf_onnx", "rtf_int8")]
        for name in report["probes"]:
            own = row["quality"].get(name)
            low, high = own["ci"] if own else (0, 0)
            cells.append(f"{own['value']:.1f} ({low:.1f}-{high:.1f})" if own else DASH)
        if report["probes"]:
            cells.append(DASH if row["score"] is None else f"{row['score']:.0f}")
        lines.append(cells)
    header = ["system", "params M", "GMAC", "RTF", "onnx", "int8", *report["probes"]]
    return Table(header + (["score"] if report["probes"] else []), lines)


def layer_table(rows: list[dict[str, Any]]) -> Table | None:
    """Show the weight that each probe's head gives to each layer.

    Layer 0 is what goes into the blocks.
    """
    lines = [
        [f"{label(row)}, {name}", *(f"{share:.2f}" for share in own["layers"])]
        for row in rows
        for name, own in row["quality"].items()
        if own["layers"] and row["system"] not in REFERENCES
    ]
    if not lines:
        return None
    most = max(map(len, lines))
    lines = [line + [DASH] * (most - len(line)) for line in lines]
    return Table(["system, probe", *map(str, range(most - 1))], lines)

"""Gather what the stages left under ``exp/`` into one dictionary.

Nothing is computed here and nothing is made up: what a stage has not left yet is None,
and ``missing`` names the stage that would fill it.
"""

import datetime
import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from espnet_prune import __version__
from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS, REFERENCE, SLIMMABLE
from espnet_prune.config.rungs import SOUP
from espnet_prune.measuring.metrics import METRICS, Metric
from espnet_prune.measuring.wer import decoded_in
from espnet_prune.report.curves import Curves, read_curves
from espnet_prune.report.quality import NONE

PARAMS = ("frontend", "subsampling", "blocks", "encoder", "decoder", "total")
MACS = ("frontend", "subsampling", "blocks", "encoder")
RTF = ("encoder", "ctc_greedy", "search")
BY_ESPNET = ", ESPnet's encoder"  # after a name: not by onnxruntime, as the others
TEST = ("p_value", "p_by_speaker", "mapsswe_p")
PACKAGES = ("espnet", "torch", "numpy")


@dataclass
class Collected:
    """The collection of all that the report shows.

    Attributes:
        report: the content of ``report.json``.
        pruning: per compact directory, its ``pruning.json`` (absent ones left out).
        soups: per compact directory that is one of several fine-tunings, its
            ``soup.json``.
        curves: title -> training statistics by epoch.
        times: experiment's name -> real-time factors by column, median and spread.
        missing: sentences: what is not there, and which stage leaves it.
    """

    report: dict[str, Any]
    pruning: dict[str, dict[str, Any]] = field(default_factory=dict)
    soups: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)
    times: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def json(self, path: Path, stage: str) -> dict[str, Any] | None:
        """Read a JSON file, or note that ``stage`` has not left it yet."""
        if not path.is_file():
            self.missing.append(f"{path} (stage {stage})")
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as e:
            mend = f"delete it and run stage {stage} again"
            raise InputError(path, f"is not JSON ({e})", mend) from None

    def same_weights(self, decode: Path, measured: dict[str, Any]) -> bool:
        """Tell whether decoding and measurement are of the same weights; note if not.

        A row that mixes two models would be worse than one with a gap.
        """
        mark = decode / "model.sha256"
        if not mark.is_file() or "sha256" not in measured:
            return True
        if mark.read_text().strip() == measured["sha256"]:
            return True
        self.missing.append(
            f"{decode}: it was decoded with other weights than {measured['model']}, "
            "which was measured (stages 15-17)"
        )
        return False

    def same_session(self, exp: Path, measured: dict[str, Any], dense: dict) -> bool:
        """Tell whether a system was timed beside the dense one; note if not."""
        if measured.get("session") == dense.get("session") or not measured:
            return True
        self.missing.append(
            f"{exp / 'measure.json'}: it was timed in another run than the dense "
            "model, so the times cannot be compared (stage 17)"
        )
        return False

    def same_search(
        self, decode: Path, measured: dict[str, Any], precision: str
    ) -> bool:
        """Tell whether the search that was timed is that of the hypotheses."""
        timed = measured.get("decoding")
        if timed is None:
            return True
        if decoded_in(f"decode_{timed}", precision) == decode.parent.name:
            return True
        self.missing.append(
            f"{decode}: the search was timed with {timed}, another one (stage 17)"
        )
        return False

    def quality(self, decode: Path) -> dict[Metric, dict[str, Any]]:
        """Read a decoding's error rates in percent, the one that leads first."""
        found, order = {}, {}
        for metric in METRICS:
            scores = self.json(decode / metric.folder / "result.json", "15-16") or {}
            found[metric] = {
                "value": in_percent(scores.get("error_rate")),
                "ci": in_percent(scores.get("ci95")),
                "unit": "%",
            }
            order[metric] = not scores.get("leads")
        return {metric: found[metric] for metric in sorted(METRICS, key=order.get)}

    def comparisons(self, scores: Path) -> dict[str, dict[str, Any]]:
        """Read the significance tests by other system: ``dense``, ``l0``."""
        names = {"dense": "significance.json", "l0": "significance_l0.json"}
        tests = {}
        for other, name in names.items():
            file = scores / name
            if other == "l0" and not file.is_file():
                continue  # it is L0 itself, or L0 was not asked for
            test = self.json(file, "15-16")
            if test is None:
                continue
            mark = Path(test["vs"]) / "model.sha256"
            if mark.is_file() and test.get("vs_sha256") != mark.read_text().strip():
                self.missing.append(
                    f"{file}: {test['vs']} has been decoded anew since (stage 16)"
                )
                continue
            difference = {k: in_percent(test.get(k)) for k in ("delta", "interval")}
            tests[other] = difference | _part(test, TEST)
        return tests

    def add_curves(self, title: str, checkpoint: Path, stage: str) -> None:
        """Add the statistics inside an ESPnet ``checkpoint.pth``, if it is there."""
        if not checkpoint.is_file():
            self.missing.append(f"{checkpoint} (stage {stage})")
            return
        self.curves[title] = read_curves(checkpoint)


def _environment(machine: dict[str, Any] | None) -> dict[str, Any]:
    packages: dict[str, str | None] = {"espnet_prune": __version__}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": packages,
        "measured_on": machine,
    }


def in_percent(value: float | list[float] | None) -> float | list[float] | None:
    """Scale a fraction, or the ends of an interval."""
    if isinstance(value, list):
        return [100 * end for end in value]
    return None if value is None else 100 * value


def _part(source: dict[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: (source or {}).get(key) for key in keys}


def _row(
    found: Collected,
    system: str,
    exp: Path,
    decode: Path,
    pruning: dict | None,
    dense: dict[str, Any],
    precision: str = "fp32",
) -> dict[str, Any]:
    """Make a row of the main table: a system on a test set (``decode`` directory)."""
    first = precision == "fp32"
    measured = found.json(exp / "measure.json", "17") or {}
    # Of other weights nothing is known.
    quality, tests = dict.fromkeys(METRICS, NONE), {}
    if found.same_weights(decode, measured):
        quality = found.quality(decode)
        if system == "compact" or not first:
            (leads, *_) = quality
            tests = found.comparisons(decode / leads.folder)
    rtf, rtf_espnet, delay = {}, {}, None
    if found.same_session(exp, measured, dense):
        times, delay = measured.get("rtf", {}), measured.get("delay")
        if not first:
            times = measured.get("rtf_by_precision", {}).get(precision, {})
        rtf = {name: r["median"] for name, r in times.items()}
        if not found.same_search(decode, measured, precision):
            rtf.pop("search", None)
        if rtf:
            found.times[exp.name + ("" if first else f" {precision}")] = times
        if first and measured.get("rtf_espnet"):
            by_espnet = measured["rtf_espnet"]
            found.times[exp.name + BY_ESPNET] = by_espnet
            rtf_espnet = {name: r["median"] for name, r in by_espnet.items()}
    pruning = pruning or {}
    return {
        "system": system,
        "method": "dense" if system == "dense" else pruning.get("method"),
        "target": _part(pruning.get("target"), ("kind", "value")),
        "precision": precision,
        "test_set": decode.name,
        "decoded": str(decode),
        "quality": {metric.name: value for metric, value in quality.items()},
        "params": _part(measured.get("params"), PARAMS),
        "macs_per_second": _part(measured.get("macs_per_second"), MACS),
        "rtf": _part(rtf, RTF),
        "rtf_espnet": _part(rtf_espnet, RTF),
        "delay": delay if first else None,
        "bytes": measured.get("bytes"),
        "p_vs_dense": tests.get("dense", {}).get("p_value"),
        "vs": tests,
    }


def trained(pruned: Path) -> bool:
    """Tell whether a stage 12 was a training: one-shot methods leave no curves."""
    conf = yaml.safe_load((pruned / "student.yaml").read_text())["model_conf"]
    method = (conf.get("plan") or {}).get("method", REFERENCE)
    return METHODS[method].trained


def collect(
    corpus: str,
    dense: Path,
    compact: list[Path],
    pruned: list[Path],
    decode_tag: str,
    test_sets: list[str],
    precisions: list[str] | None = None,
    dense_training: Path | None = None,
) -> Collected:
    """The function gathers the rows (dense first, then each compact, per test set) and
    the curves.

    Args:
        corpus: its name.
        dense: directory of what was decoded and measured of the dense model.
        compact: directories of the compact models.
        pruned: directories of the pruning runs.
        decode_tag: name of the directories of hypotheses in these.
        test_sets: names of the test sets.
        precisions: further formats of the encoder, decoded in ``<decode_tag>_<name>``.
        dense_training: directory that the dense model was trained in; None leaves out
            the curves of that.

    Raises:
        InputError: a file is there but damaged.
    """
    found = Collected({"corpus": corpus, "environment": {}, "rows": []})
    for exp in compact:
        pruning = found.json(exp / "pruning.json", "13")
        if pruning is not None:
            found.pruning[str(exp)] = pruning
        if (exp / SOUP).is_file():
            found.soups[str(exp)] = found.json(exp / SOUP, "14")
    systems = [("dense", dense), *(("compact", exp) for exp in compact)]
    timed = found.json(dense / "measure.json", "17") or {}
    for test_set in test_sets:
        for system, exp in systems:
            pruning = found.pruning.get(str(exp))
            for precision in ["fp32", *(precisions or [])]:
                decode = exp / decoded_in(decode_tag, precision) / test_set
                row = _row(found, system, exp, decode, pruning, timed, precision)
                found.report["rows"].append(row)
    if dense_training is not None:
        title = f"Dense training ({dense_training.name})"
        found.add_curves(title, dense_training / "checkpoint.pth", "11")
    for exp in pruned:
        if not (exp / "student.yaml").is_file() or trained(exp):
            found.add_curves(f"Pruning ({exp.name})", exp / "checkpoint.pth", "12")
    for exp in compact:
        told = found.pruning.get(str(exp), {})
        if told.get("method") == SLIMMABLE and told["target"]["value"]:
            continue  # it was trained with all of it
        title = f"Fine-tuning ({exp.name})"
        found.add_curves(title, exp / "finetune" / "checkpoint.pth", "14")
    # Every test set asks for the same measure.json: one note is enough.
    found.missing = list(dict.fromkeys(found.missing))
    found.report["macs_seconds"] = timed.get("macs_seconds")
    found.report["decoding"] = decode_tag.removeprefix("decode_")
    found.report["environment"] = _environment(timed.get("machine"))
    return found

"""Tell several runs of the same systems together: the reports of several seeds.

A difference is that of the means, with intervals over utterances and over speakers:
what others of these would change. How far seeds are apart, the ranges show.
"""

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import REFERENCE
from espnet_prune.measuring.metrics import METRICS
from espnet_prune.measuring.scoring import speakers_of
from espnet_prune.measuring.significance import (
    compare,
    pool,
    read_result,
    read_speakers,
)
from espnet_prune.report.quality import DENSE, is_scored, leading, metrics
from espnet_prune.report.results import Row

Scored = dict[str, Any]  # a row of report.json
Run = dict[tuple[str, float | None], Scored]  # by method and target


def pooled(
    reports: Sequence[Path], versus: str = DENSE, others: Sequence[Path] = ()
) -> dict[str, tuple[str, list[Row]]]:
    """Join the reports of several runs of the same systems.

    Args:
        reports: ``report.json`` of each run, started in this directory.
        versus: method that the systems are held against, at the same target; or the
            dense model.
        others: reports of other runs, whose system of the same method and target each
            is held against instead.

    Returns:
        by test set, as the first report calls it: metric with unit, and a row for each
        system.

    Raises:
        InputError: a file is no report, its runs have other numbers of test sets, or
            were scored on other references.
    """
    runs, bases = _by_set(reports), _by_set(others)
    if others and len(bases) != len(runs):
        raise InputError("reports", "have other test sets", "compare alike")
    if not others:
        bases = runs
    found = {}
    for (name, own), base in zip(runs.items(), bases.values(), strict=True):
        keys = list(dict.fromkeys(key for run in own for key in run))
        rows = [_row(key, own, base, None if others else versus) for key in keys]
        scored = [row for run in own for row in run.values()]
        (metric, *_) = metrics(scored)
        found[name] = f"{metric} {leading(scored[0])['unit']}", rows
    return found


def _by_set(reports: Sequence[Path]) -> dict[str, list[Run]]:
    """Sort the rows of reports; a test set's name holds the tag: the order counts."""
    tables = [_read(path) for path in reports]
    if len({len(table) for table in tables}) > 1:
        names = [list(table) for table in tables]
        raise InputError("reports", f"have other test sets: {names}", "compare alike")
    found: dict[str, list[Run]] = {}
    for names in zip(*tables, strict=True):
        if len(set(names)) > 1:
            logging.warning(
                f"test sets {', '.join(names[1:])} are taken for {names[0]}"
            )
        own = [table[name] for table, name in zip(tables, names, strict=True)]
        found[names[0]] = own
    return found


def _read(path: Path) -> dict[str, Run]:
    """Read what has been scored, by test set; the dense model stands first."""
    found: dict[str, Run] = {}
    try:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["precision"] == "fp32" and is_scored(row):
                key = row["method"], row["target"]["value"]
                found.setdefault(row["test_set"], {})[key] = row
        if not found or not all((DENSE, None) in run for run in found.values()):
            raise ValueError("no dense model has been scored")
    except (OSError, ValueError, KeyError, TypeError) as e:
        what = f"is no report to take figures from ({e})"
        raise InputError(path, what, "run stages 15-18") from e
    return found


def _row(
    key: tuple[str, float | None],
    runs: Sequence[Run],
    bases: Sequence[Run],
    versus: str | None,
) -> Row:
    """Pool a system's runs, and hold them against those of another one."""
    method, target = key
    pairs = [(run[key], run[DENSE, None]) for run in runs if key in run]
    rows = [row for row, _ in pairs]
    made = Row(
        "L0" if method == REFERENCE else method,
        [round(leading(row)["value"], 4) for row in rows],
        target,
        seeds=len(rows),
    )
    if target is not None:
        made = replace(made, gone=_gone(pairs), speed=_speed(pairs))
    if versus is None:
        other = key
    else:
        other = (versus, None if versus == DENSE else target)
    base = [run[other] for run in bases if other in run]
    if not base or (versus is not None and other == key):
        return made
    (name, *_) = metrics(rows)
    ours, theirs = ([_result(row, name) for row in side] for side in (rows, base))
    # What was scored by older code does not say where its references are.
    speakers = speakers_of(Path(ours[0].get("references", "unknown")))
    test = compare(
        pool(ours, method),
        pool(theirs, other[0]),
        other[0],
        read_speakers(speakers, ours[0]["utterances"]) if speakers.is_file() else None,
    )
    ends, apart = test["interval"], test["interval_by_speaker"]
    if ends:
        difference = [100 * x for x in (test["delta"], *ends)]
        made = replace(made, difference=difference)
    return replace(made, by_speaker=[100 * x for x in apart]) if apart else made


def _result(row: Scored, name: str) -> dict[str, Any]:
    (metric,) = (metric for metric in METRICS if metric.name == name)
    return read_result(Path(row["decoded"]) / metric.folder / "result.json")


def _gone(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, float]:
    """Compute the mean fractions of the encoder that are gone."""
    found = {}
    for name, part in (("params", "params"), ("macs", "macs_per_second")):
        kept = [(row[part]["encoder"], dense[part]["encoder"]) for row, dense in pairs]
        if all(after is not None and before for after, before in kept):
            found[name] = 1 - statistics.mean(after / before for after, before in kept)
    return found


def _speed(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, float]:
    """Compute how many times as fast as the dense model of the same run it is."""
    found = {}
    for name in ("encoder", "search"):
        times = [(dense["rtf"][name], row["rtf"][name]) for row, dense in pairs]
        if all(before and after for before, after in times):
            found[name] = statistics.mean(before / after for before, after in times)
    return found

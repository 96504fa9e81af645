"""The project's figures as data: ``results/NAME.json``, an experiment each.

A record says what was run, where and when, and has a row for each system: the values of
all its seeds, what is gone of the dense encoder, and the difference to the dense model
with its interval.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError

SECTIONS = ("real speech", "synthetic speech", "self-supervised", "the clock")


@dataclass(frozen=True)
class Made:
    """How figures came to be.

    Args:
        command: what was run, line by line.
        commit: of the project.
        machine: processor and threads.
        date: of the measurement.
    """

    command: list[str]
    commit: str
    machine: str
    date: str


@dataclass(frozen=True)
class Row:
    """The figures of one system.

    Args:
        system: as ``L0`` or ``dense``.
        values: of the metric, one for each seed; of older runs perhaps mean, least and
            largest alone, as ``summary``.
        target: fraction that was to go; None for the dense model.
        gone: of the dense encoder's ``params`` and ``macs``, fractions.
        difference: to the dense model in the metric's unit, and its 95 % interval over
            utterances.
        by_speaker: the interval over speakers, where there are enough of them.
        speed: times as fast as the dense model, by column (``encoder``, ``search``), or
            as ESPnet's dense encoder, by number format.
        seeds: how many there are.
    """

    system: str
    values: list[float] = field(default_factory=list)
    target: float | None = None
    gone: dict[str, float] = field(default_factory=dict)
    difference: list[float] | None = None
    by_speaker: list[float] | None = None
    speed: dict[str, float] = field(default_factory=dict)
    summary: list[float] | None = None
    seeds: int = 1

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return statistics.mean(self.values) if self.values else self.summary[0]

    @property
    def span(self) -> tuple[float, float]:
        """Return the least and the largest value."""
        if self.values:
            return min(self.values), max(self.values)
        return self.summary[1], self.summary[2]


@dataclass(frozen=True)
class Record:
    """An experiment.

    Args:
        title: what it is, in a few words.
        section: one of :data:`SECTIONS`.
        test: what it was tested on.
        metric: name of the figure, with its unit; empty where only the clock counts.
        higher: whether more of it is better.
        kind: what the targets count, as ``params+macs``.
        made: how it came to be.
        rows: of the systems, the dense one among them.
    """

    title: str
    section: str
    test: str
    metric: str
    higher: bool
    kind: str
    made: Made
    rows: list[Row]

    @property
    def dense(self) -> Row:
        """Return the row of the dense model."""
        return next(row for row in self.rows if row.target is None)

    def dump(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


def read_records(folder: Path) -> dict[str, Record]:
    """Read all records, by name.

    Raises:
        InputError: a file is no record, or its section is unknown.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            rows = [Row(**row) for row in data.pop("rows")]
            found[path.stem] = Record(made=Made(**data.pop("made")), rows=rows, **data)
            _ = found[path.stem].dense
        except (ValueError, KeyError, TypeError, StopIteration) as e:
            raise InputError(path, f"is no record of results ({e!r})") from e
        if found[path.stem].section not in SECTIONS:
            what = f"its section is none of: {', '.join(SECTIONS)}"
            raise InputError(path, what)
    return found


def rows_of_bench(path: Path, model: str) -> list[Row]:
    """Read a table of the bench: how many times as fast as ESPnet's dense encoder.

    Args:
        path: what ``espnet_prune.cli.bench --json`` wrote.
        model: whose rows are wanted.

    Returns:
        a row for the dense encoder and one for each target; ``speed`` is by number
        format, by the runtime.

    Raises:
        InputError: the file is no result of the bench, or has no such rows.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["rows"]
        first, *others = [row for row in data if row["model"] == model]
    except (OSError, ValueError, KeyError) as e:
        what = f"is no result of the bench with rows of {model} ({e!r})"
        raise InputError(path, what, "run espnet_prune.cli.bench --json") from e
    found: dict[float | None, Row] = {}
    for row in others:
        if not row["system"].endswith("_torch"):
            gone = {"macs": 1 - row["macs"] / first["macs"]} if row["target"] else {}
            name = "compact" if row["target"] else "dense"
            own = Row(name, target=row["target"], gone=gone)
            own = found.setdefault(row["target"], own)
            own.speed[row["precision"]] = first["median_s"] / row["median_s"]
    return [*found.values()]

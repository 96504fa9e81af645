"""Probe self-supervised encoders: what small heads learn from their frozen features.

    python -m espnet_prune.cli.ssl_probe --dense DIR --compact DIR --out exp/report \
        --probes "keyword=words:corpus/train:corpus/test"

leaves ``probes.json``; a probe of the same model and data is not run again. The kinds
of probes are in :mod:`espnet_prune.measuring.probes.tasks`.
"""

import argparse
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import fingerprint, write_json
from espnet_prune.base.table import read_table
from espnet_prune.data.kaldi_dir import find_audio
from espnet_prune.data.sources import look_at
from espnet_prune.families.ssl.directory import fingerprint_of, named

if TYPE_CHECKING:
    from espnet_prune.measuring.probes.tasks import Probe

APART = 10.0  # points between the heads of two seeds that tell of bad training


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--probes", type=str.split, default=[], metavar="NAME=KIND:TRAIN:TEST",
        help="several with blanks between; kinds: see docs/ssl.md",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="of the probes' heads")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.ssl.audio import normalizes
    from espnet_prune.families.ssl.model import read, untrained
    from espnet_prune.measuring.probes.features import Labelled, System, read_set
    from espnet_prune.measuring.probes.tasks import TASKS

    probes = check_probes(args.probes)
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}", "give a number from 1 on")
    file = args.out / "probes.json"
    found: dict[str, Any] = {"probes": {}, "systems": {}}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    dense, normalize = read(args.dense), normalizes(args.dense)
    own = fingerprint_of(args.dense)
    systems = {
        "log_mel": (System(None, False), ""),
        "untrained": (System(untrained(dense), normalize), f"untrained {own}"),
        "dense": (System(dense, normalize), own),
    }
    for name, folder in named(args.compact).items():
        systems[name] = System(read(folder), normalize), fingerprint_of(folder)
    found["probes"] = {}  # those of before are kept, and not shown
    found["weights"] = {name: weights for name, (_, weights) in systems.items()}
    for probe in probes:
        kind, folders = TASKS[probe.kind], (probe.train, probe.test)
        found["probes"][probe.name] = {
            "kind": probe.kind,
            "unit": kind.unit,
            "higher": kind.higher,
            "train": str(probe.train),
            "test": str(probe.test),
        }
        data = stamp_of(probe.kind, folders, args.out)
        sets: list[Labelled] = []
        stamps = {
            name: f"{data} {weights} {args.seeds} {kind.version}"
            for name, (_, weights) in systems.items()
        }
        for own in map(found["systems"].get, stamps):  # of other data, or heads
            if own and own.get(probe.name, {}).get("stamp") not in stamps.values():
                own.pop(probe.name, None)
        write_json(file, found)
        for name, (system, _) in systems.items():
            own = found["systems"].setdefault(name, {})
            stamp = stamps[name]
            if own.get(probe.name, {}).get("stamp") == stamp:
                continue
            begun = time.monotonic()
            sets = sets or [read_set(folder, kind.table) for folder in folders]
            value = kind.run(system, *sets, args.seeds) | {"stamp": stamp}
            own[probe.name] = value
            write_json(file, found)
            took = time.monotonic() - begun
            logging.info(
                f"{probe.name}, {name}: {value['value']:.1f} {kind.unit} ({took:.0f} s)"
            )
            by_seed = value.get("by_seed", [0.0])
            if max(by_seed) - min(by_seed) > APART:
                told = ", ".join(f"{v:.1f}" for v in by_seed)
                logging.warning(
                    f"{probe.name}, {name}: heads of the seeds differ: {told}"
                )


def check_probes(texts: Sequence[str]) -> "list[Probe]":
    """Parse the probes of ``--probes``, and check their labels.

    Raises:
        InputError: one is none, or a name is given twice.
    """
    from espnet_prune.measuring.probes.features import read_labels
    from espnet_prune.measuring.probes.tasks import TASKS, Probe

    probes = [Probe.parse(text) for text in texts]
    names = [probe.name for probe in probes]
    for probe in probes:
        if names.count(probe.name) > 1:
            what = f"names {probe.name!r} twice"
            raise InputError("--probes", what, "give NAME=KIND:...")
        kind, folders = TASKS[probe.kind], (probe.train, probe.test)
        train, test = (read_labels(folder, kind.table) for folder in folders)
        if shared := {*train.sources} & {*test.sources}:
            what = f"{min(shared)} is in the training set, too"
            raise InputError(test.folder, what, "give other recordings")
        kind.check(train, test)
    return probes


def stamp_of(kind: str, folders: Sequence[Path], out: Path) -> str:
    """Compute the SHA-256 that tells the data of a probe from others.

    What a command will give cannot be seen: with one it is never the same.

    Args:
        kind: of the probe.
        folders: the data.
        out: where the contents of files are noted, which are read once.
    """
    from espnet_prune.measuring.probes.tasks import TASKS

    table, tables, values = TASKS[kind].table, [], []
    for folder in folders:
        found = find_audio(folder, read_table(folder / "wav.scp"))
        tables.append((fingerprint(folder / table), found))
        values += found.values()
    sources = look_at(values, out)
    sources.note(out)
    seen = f"{kind} {tables} {sources.digests}"
    if sources.commands:
        names = " and ".join(map(str, folders))
        logging.info(f"{names}: commands give audio: it is probed anew")
        seen += uuid.uuid4().hex
    return hashlib.sha256(seen.encode()).hexdigest()


if __name__ == "__main__":
    run_main(main)

"""Stage 16: score all decoded systems, and compare those that are to be compared.

    python -m espnet_prune.cli.score_systems --dense exp/dense --compact exp/compact \
        --baseline exp/compact_magnitude exp/compact --data dump/raw --test_sets test \
        --decode_tag decode_asr --nj 4

Everything is held against the dense system, a baseline also against the compact one
named after it, where that has been scored. Each set of each system is a part of the
work; a part whose files are those that it was scored with is left out.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import (
    code_version,
    fingerprint,
    is_made_of,
    locked,
    note_made_of,
)
from espnet_prune.measuring.mapsswe import find
from espnet_prune.measuring.metrics import METRICS
from espnet_prune.measuring.scoring import (
    score_set,
    speakers_of,
    test_file,
    weights_of,
)
from espnet_prune.measuring.wer import decoded_in
from espnet_prune.running.executor import Executor, add_arguments, from_arguments


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument(
        "--baseline", type=Path, nargs=2, action="append", default=[],
        metavar=("DIR", "COMPACT"), help="a compact system, and whose baseline it is",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="dump/raw")
    parser.add_argument("--test_sets", required=True, help="blanks between")
    parser.add_argument("--decode_tag", required=True, help="decode_<...> directory")
    parser.add_argument("--precisions", default="", help="further ones: bf16 int8")
    add_arguments(parser)
    return parser


@dataclass(frozen=True)
class Part:
    """A decoded set of a system: references, hypotheses, what to compare with."""

    ref: Path
    hyp: Path
    vs: Mapping[str, Path]

    def results(self) -> list[Path]:
        """List the files that scoring leaves, the last first."""
        names = ["result.json", *map(test_file, self.vs)]
        return [
            self.hyp.parent / metric.folder / name
            for metric in reversed(METRICS)
            for name in names
        ]

    def stamp(self) -> str | None:
        """Say what the results are made of; None if something of that is missing."""
        others = [
            other / metric.folder / "result.json"
            for other in self.vs.values()
            for metric in METRICS
        ]
        files = [self.ref, self.hyp, *others]
        if (speakers := speakers_of(self.ref)).is_file():
            files.append(speakers)
        if not all(file.is_file() for file in files):
            return None  # scoring tells what
        weights = [(str(other), weights_of(other)) for other in self.vs.values()]
        by = [find("sc_stats"), code_version()]
        return json.dumps([*by, weights, *map(fingerprint, files)])

    def is_scored(self) -> bool:
        """Tell whether the results are there, and of what is there now."""
        results, stamp = self.results(), self.stamp()
        there = all(result.is_file() for result in results)
        return there and stamp is not None and is_made_of(results[0].parent, stamp)

    def score(self) -> tuple[list[str], str | None]:
        """Score the part; return a sentence for each rate, and what was wrong."""
        stamp = self.stamp()  # before: what changes meanwhile must be seen next time
        try:
            said = score_set(self.ref, self.hyp, self.vs)
        except InputError as e:
            return [], str(e)
        if stamp is not None:
            note_made_of(self.results()[0].parent, stamp)
        return said, None


def parts_of(args: argparse.Namespace) -> Iterator[list[Part]]:
    """Yield the parts, each list after those whose results it is compared with."""

    def parts(
        system: Path, precisions: Sequence[str], vs: Mapping[str, Path]
    ) -> list[Part]:
        made = []
        for name in args.test_sets.split():
            others = {
                other: where / decoded_in(args.decode_tag) / name
                for other, where in vs.items()
            }
            scored = {
                other: folder
                for other, folder in others.items()
                if not other or (folder / METRICS[0].folder).exists()
            }
            for precision in precisions:
                hyp = system / decoded_in(args.decode_tag, precision) / name / "text"
                made.append(Part(args.data / name / "text", hyp, scored))
        return made

    further = args.precisions.split()
    every, dense = ["fp32", *further], {"": args.dense}
    yield parts(args.dense, ["fp32"], {})
    # Of the dense model, too, the others are compared with its fp32.
    second = parts(args.dense, further, dense)
    for system in args.compact:
        second += parts(system, every, dense)
    yield second
    third = []
    for system, l0 in args.baseline:
        third += parts(system, every, dense | {"l0": l0})
    yield third


def score_parts(parts: Sequence[Part], executor: Executor, logs: Path) -> None:
    """Score the parts at once, but those that have been scored before.

    Raises:
        InputError: some could not be scored; names all, after the others have been.
    """
    todo = [part for part in parts if not part.is_scored()]
    if len(todo) < len(parts):
        kept = len(parts) - len(todo)
        logging.info(f"{kept} of {len(parts)} were scored before, from the same files")
    if not todo:
        return
    done = executor.map(Part.score, todo, logs, "scoring")
    wrong = []
    for said, error in done:
        for line in said:
            logging.info(line)
        if error is not None:
            wrong.append(error)
    if wrong:
        raise InputError(f"{len(wrong)} of {len(todo)} parts", "; ".join(wrong))


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    folder = args.dense / args.decode_tag
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "scores"):
        for parts in parts_of(args):
            score_parts(parts, from_arguments(args), folder / "log" / "score")


if __name__ == "__main__":
    run_main(main)

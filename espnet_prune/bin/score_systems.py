"""Stage 16: score all decoded systems, and compare those that are to be compared.

    python -m espnet_prune.bin.score_systems --dense exp/dense --compact exp/compact \
        --baseline exp/compact_magnitude=exp/compact --data dump/raw --test_sets test \
        --decode_tag decode_asr --nj 4

Everything is held against the dense system, a baseline also against the compact one
named after it, where that has been scored. Each set of each system is a part of the
work: parts whose files are the same as when they were scored are left out.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from espnet_prune.bin.score import score_set
from espnet_prune.data.parallel import ordered_map
from espnet_prune.errors import run_main
from espnet_prune.executor import Executor, add_arguments, from_arguments
from espnet_prune.files import fingerprint, is_made_of, note_made_of
from espnet_prune.measure.mapsswe import find
from espnet_prune.measure.wer import decoded_in
from espnet_prune.shards import split


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--compact", type=Path, action="append", default=[])
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="DIR=COMPACT",
        help="a compact system, and the one it is a baseline of",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="dump/raw")
    parser.add_argument("--test_sets", required=True, help="blanks between")
    parser.add_argument("--decode_tag", required=True, help="decode_<...> directory")
    parser.add_argument("--precisions", default="", help="further ones: bf16 int8")
    add_arguments(parser)
    return parser


@dataclass(frozen=True)
class Part:
    """One decoded set of one system: references, hypotheses, scored ones to compare."""

    ref: Path
    hyp: Path
    vs: tuple[str, ...]

    @property
    def result(self) -> Path:
        """Where the last of its files go."""
        return self.hyp.parent / "score_cer"

    def stamp(self) -> str:
        """Says what its results are made of; empty: something is not there."""
        others = [Path(vs.rpartition("=")[2]) for vs in self.vs]
        files = [self.ref, self.hyp, *(other / "text" for other in others)]
        if not all(file.is_file() for file in files):
            return ""  # scoring tells what
        return json.dumps([self.vs, find("sc_stats"), *map(fingerprint, files)])

    def score(self) -> list[str]:
        """Score it; a sentence for each rate."""
        said = score_set(self.ref, self.hyp, self.vs)
        note_made_of(self.result, self.stamp())
        return said


def parts_of(args: argparse.Namespace) -> Iterator[list[Part]]:
    """The parts, each list after those whose results it is compared with."""
    names, further = args.test_sets.split(), args.precisions.split()

    def parts(system: Path, precisions: list[str], vs: dict[str, Path]) -> list[Part]:
        made = []
        for name in names:
            scored = {
                other: where / decoded_in(args.decode_tag) / name
                for other, where in vs.items()
            }
            against = tuple(
                f"{other}{folder}"
                for other, folder in scored.items()
                if not other or (folder / "score_wer").exists()
            )
            for precision in precisions:
                hyp = system / decoded_in(args.decode_tag, precision) / name / "text"
                made.append(Part(args.data / name / "text", hyp, against))
        return made

    every, dense = ["fp32", *further], {"": args.dense}
    yield parts(args.dense, ["fp32"], {})
    # Of the dense model, too, the others are compared with its fp32.
    second = parts(args.dense, further, dense)
    for system in args.compact:
        second += parts(system, every, dense)
    yield second
    third = []
    for pair in args.baseline:
        system, _, l0 = pair.partition("=")
        third += parts(Path(system), every, dense | {"l0=": Path(l0)})
    yield third


def score_parts(parts: list[Part], executor: Executor, logs: Path) -> None:
    """Score the parts at once, but those that have been scored before."""
    todo = [part for part in parts if not is_made_of(part.result, part.stamp())]
    if len(todo) < len(parts):
        kept = len(parts) - len(todo)
        logging.info(f"{kept} of {len(parts)} were scored before, from the same files")
    if not todo:
        return
    if executor.is_local:
        done = ordered_map(Part.score, todo, executor.nj, "scoring", chunk=1)
    else:  # a job takes longer to start than a part
        jobs = split(todo, executor.nj)
        done = chain.from_iterable(
            executor.submit(score_in_turn, jobs, logs, "scoring")
        )
    for line in chain.from_iterable(done):
        logging.info(line)


def score_in_turn(parts: Sequence[Part]) -> list[list[str]]:
    """What one job does."""
    return [part.score() for part in parts]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    logs = args.dense / args.decode_tag / "log" / "score"
    for parts in parts_of(args):
        score_parts(parts, from_arguments(args), logs)


if __name__ == "__main__":
    run_main(main)

"""Is one system better than another, over several runs of each?

    python -m espnet_prune.cli.compare --of A1/score_wer/result.json A2/... \\
        --with B1/score_wer/result.json B2/... B3/...

prints the mean and the range of the WER of both, and a paired bootstrap over
utterances of the difference of the means: what other utterances would change, not what
other seeds would. With ``--utt2spk dump/raw/<set>/utt2spk`` also a test over speakers.
The files are what stage 16 leaves in ``exp/*/decode_*``; all runs must have the same
test set, or the same test sets: ``A1/SET1/result.json,A1/SET2/result.json``, and
``--utt2spk SPK1,SPK2``. One run of each on one set is what the report shows.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.cli.seeds import spread
from espnet_prune.measuring.significance import (
    compare,
    error_rate,
    pool,
    read_result,
    read_speakers,
)
from espnet_prune.report.rendering import Table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, of in (("--of", "the system"), ("--with", "the other one")):
        parser.add_argument(
            option,
            dest=option[2:] + "_runs",
            type=_paths,
            nargs="+",
            required=True,
            metavar="FILE[,FILE ...]",
            help=f"result.json of each run of {of}; of several test sets with commas",
        )
    parser.add_argument(
        "--utt2spk", type=_paths, metavar="FILE[,FILE ...]", help="of each test set"
    )
    return parser


def _paths(text: str) -> list[Path]:
    return [Path(part) for part in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    sides = {"--of": args.of_runs, "--with": args.with_runs}
    sets = len(args.of_runs[0])
    if args.utt2spk and len(args.utt2spk) != sets:
        raise InputError(
            "--utt2spk",
            f"names {len(args.utt2spk)} for {sets} test sets",
            "give that of each set, with commas between them",
        )
    by_set = {
        side: [[read_result(path)["utterances"] for path in run] for run in own]
        for side, own in sides.items()
    }
    speakers = None
    if args.utt2spk:
        speakers = _join(list(map(read_speakers, args.utt2spk, by_set["--of"][0])))
    runs = {
        side: [{"utterances": _join(tables)} for tables in own]
        for side, own in by_set.items()
    }
    pooled = (pool(runs[side], side) for side in sides)
    test = compare(*pooled, vs="--with", speakers=speakers)
    if not test["n_words"]:
        raise InputError("--of", "its references hold no word", "give other test sets")
    lines = [
        [side, str(len(own)), spread([100 * error_rate(run) for run in own])]
        for side, own in runs.items()
    ]
    sys.stdout.write(Table(["", "runs", "WER %"], lines).markdown())
    found = f"difference {100 * test['delta_wer']:+.2f}"
    if test["interval"] is not None:
        low, high = (100 * x for x in test["interval"])
        found += f" ({low:+.2f} to {high:+.2f}), p {test['p_value']:.2g}"
    told = f"{test['n_utts']} utterances, {test['n_words']} words"
    sys.stdout.write(f"\n{found}; {told}\n")
    if speakers is not None:
        over = f"over {test['n_speakers']} speakers: "
        if test["p_by_speaker"] is None:
            sys.stdout.write(f"{over}no test (docs/report.md)\n")
            return
        low, high = (100 * x for x in test["interval_by_speaker"])
        sys.stdout.write(
            f"{over}{low:+.2f} to {high:+.2f}, p {test['p_by_speaker']:.2g}\n"
        )


def _join(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the utterances of several test sets, which may have ids in common."""
    if len(tables) == 1:
        return tables[0]
    return {
        f"{utt} of set {number}": value
        for number, table in enumerate(tables, 1)
        for utt, value in table.items()
    }


if __name__ == "__main__":
    run_main(main)

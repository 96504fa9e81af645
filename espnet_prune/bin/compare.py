"""Is one system better than another, over several runs of each?

    python -m espnet_prune.bin.compare --of A1/score_wer/result.json A2/... \\
        --with B1/score_wer/result.json B2/... B3/...

prints the mean and the range of the WER of both, and a paired bootstrap over
utterances of the difference of the means: what other utterances would change, not what
other seeds would. With ``--utt2spk dump/raw/<set>/utt2spk`` also a test over speakers.
The files are what stage 16 leaves in ``exp/*/decode_*``; all runs must have the same
test set. One run of each is what the report shows.
"""

import argparse
import sys
from pathlib import Path

from espnet_prune.bin.seeds import spread
from espnet_prune.data.table import read_table
from espnet_prune.errors import run_main
from espnet_prune.measure.significance import compare, pool, read_result
from espnet_prune.report.tables import Table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, of in (("--of", "the system"), ("--with", "the other one")):
        parser.add_argument(
            option,
            dest=option[2:] + "_runs",
            type=Path,
            nargs="+",
            required=True,
            help=f"result.json of each run of {of}",
        )
    parser.add_argument("--utt2spk", type=Path, help="of the test set")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    sides = {"--of": args.of_runs, "--with": args.with_runs}
    runs = {side: [read_result(path) for path in sides[side]] for side in sides}
    speakers = None if args.utt2spk is None else read_table(args.utt2spk)
    pooled = (pool(runs[side], side) for side in sides)
    test = compare(*pooled, vs="--with", speakers=speakers)
    low, high = (100 * x for x in test["interval"])
    lines = [
        [side, str(len(own)), spread([100 * result["error_rate"] for result in own])]
        for side, own in runs.items()
    ]
    sys.stdout.write(Table(["", "runs", "WER %"], lines).markdown())
    sys.stdout.write(
        f"\ndifference {100 * test['delta_wer']:+.2f} ({low:+.2f} to {high:+.2f}), p "
        f"{test['p_value']:.2g}; {test['n_utts']} utterances, {test['n_words']} words\n"
    )
    if speakers is not None:
        over = f"over {test['n_speakers']} speakers: "
        if test["p_by_speaker"] is None:
            sys.stdout.write(f"{over}too few, or each has one utterance\n")
            return
        low, high = (100 * x for x in test["interval_by_speaker"])
        sys.stdout.write(
            f"{over}{low:+.2f} to {high:+.2f}, p {test['p_by_speaker']:.2g}\n"
        )


if __name__ == "__main__":
    run_main(main)

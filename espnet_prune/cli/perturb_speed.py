"""Stage 2: add copies of a training set at other speeds.

As in Kaldi, the copies' utterances and speakers are called ``sp0.9-...``. No audio is
written: ``utt2speed`` says which speed stage 3 gives an utterance, by resampling, so
that pitch and tempo change together as with sox's ``speed``.
"""

import argparse
import logging
import re
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.data.kaldi_dir import DataDir, read_data_dir, write_data_dir

_PERTURBED = re.compile(r"sp\d\.\d+-")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in", dest="source", required=True, help="data directory")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument(
        "--factors", default="0.9 1.0 1.1", help='speeds, as "0.9 1.0 1.1"'
    )
    return parser


def perturb(data: DataDir, factors: list[str]) -> DataDir:
    """Repeat ``data`` for each factor; 1.0 keeps its ids.

    Args:
        factors: speeds as the user wrote them, which is how ids quote them.

    Raises:
        InputError: ``data`` has been perturbed before, or has times in its texts.
    """
    for name in data.more:
        what = "is of S2T, whose texts tell times, which another speed makes wrong"
        raise InputError(name, what, "leave out --speed_perturb")
    if data.speeds:
        raise InputError("utt2speed", "the data are perturbed already", "use stage 1's")
    for name in data.text:
        if _PERTURBED.match(name):  # Kaldi's own, whose audio is slow or fast already
            raise InputError(
                "text",
                f"{name} is perturbed already, by its name",
                "give the set without such copies, or leave out --speed_perturb",
            )
    segments = None if data.segments is None else {}
    result = DataDir({}, {}, {}, segments)
    for factor in factors:
        speed = float(factor)
        prefix = "" if speed == 1.0 else f"sp{factor}-"
        for utterance, words in data.text.items():
            key = prefix + utterance
            result.text[key] = words
            result.speakers[key] = prefix + data.speakers[utterance]
            if speed != 1.0:
                result.speeds[key] = speed
            if data.segments is None:
                result.wav[key] = data.wav[utterance]
            else:
                # Segments count in the recording's own time: stage 3 cuts first.
                result.segments[key] = data.segments[utterance]
    if data.segments is not None:
        result.wav = dict(data.wav)
    return result


def main() -> None:
    args = get_parser().parse_args()
    factors = args.factors.split()
    try:
        speeds = [float(factor) for factor in factors]
    except ValueError:
        speeds = []
    if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
        raise InputError(
            "--factors", f"{args.factors!r} are no speeds from 0.5 to 2", "give 0.9 1.1"
        )
    if len(set(speeds)) != len(speeds):
        raise InputError("--factors", "names a speed twice", "name each once")
    source, out = Path(args.source), Path(args.out)
    if source.resolve() == out.resolve():
        raise InputError("--out", "is the directory to read", "give another")
    data = read_data_dir(source)
    result = perturb(data, factors)
    write_data_dir(out, result)
    logging.info(
        "%s: %d utterances at speeds %s", out, len(result.text), " ".join(factors)
    )


if __name__ == "__main__":
    run_main(main)

"""Stage 4: drop utterances that are too short, too long, or without words."""

import argparse
import logging
import shutil
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import MADE_OF, atomic_dir
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.audio import AUDIO_DIGEST, rate_of
from espnet_prune.data.kaldi_dir import (
    DataDir,
    read_data_dir,
    write_tables,
)

_WARN_SHARE = 0.1


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in", dest="source", required=True, help="stage 3's output")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--min_seconds", type=float, default=0.1)
    parser.add_argument("--max_seconds", type=float, default=20.0)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if not 0 <= args.min_seconds < args.max_seconds:
        raise InputError("--min_seconds", "is not below --max_seconds", "change one")
    source, out = Path(args.source), Path(args.out)
    if source.resolve() == out.resolve():
        raise InputError("--out", "is the directory to read", "give another")
    data = read_data_dir(source)
    samples = _read_samples(source, data)
    # Stage 3 gave all files one rate, so that the first one's is everyone's.
    fs = rate_of(next(iter(data.wav.values())))
    kept, dropped = [], {"too short": 0, "too long": 0, "without words": 0}
    for utterance, words in data.text.items():
        if samples[utterance] < args.min_seconds * fs:
            dropped["too short"] += 1
        elif samples[utterance] > args.max_seconds * fs:
            dropped["too long"] += 1
        elif not words:
            dropped["without words"] += 1
        else:
            kept.append(utterance)
    summary = ", ".join(f"{count} {why}" for why, count in dropped.items())
    if not kept:
        raise InputError(
            source,
            f"no utterance is left ({summary})",
            "check the transcripts, --min_seconds and --max_seconds",
        )
    share = 1 - len(kept) / len(data.text)
    logging.info("%s: kept %d of %d (%s)", out, len(kept), len(data.text), summary)
    if share > _WARN_SHARE:
        logging.warning("%s: %.0f %% of the utterances dropped", out, 100 * share)
    with atomic_dir(out) as temporary:
        wav = {u: data.wav[u] for u in kept}
        write_tables(temporary, data.part(kept, wav))
        write_table(temporary / "utt2num_samples", {u: samples[u] for u in kept})
        for name in ("feats_type", "audio_format", AUDIO_DIGEST, MADE_OF):
            if (source / name).exists():
                shutil.copy(source / name, temporary / name)


def _read_samples(source: Path, data: DataDir) -> dict[str, int]:
    path = source / "utt2num_samples"
    try:
        samples = {key: int(value) for key, value in read_table(path).items()}
    except ValueError as e:
        if isinstance(e, InputError):
            raise
        raise InputError(path, "holds no whole numbers", "run stage 3 again") from None
    if samples.keys() != data.text.keys():
        raise InputError(path, "names other ids than text", "run stage 3 again")
    return samples


if __name__ == "__main__":
    run_main(main)

#!/usr/bin/env python3
"""Stage 1, corpus ``synth``: speak a synthetic corpus with espeak-ng, offline.

The program writes ``<out>/<prefix>{train,dev,test}`` and their audio under
``<out>/<prefix>wav``. The corpus says nothing about real speech: it is there so that
the recipe runs anywhere.
"""

import argparse
import json
import logging
from pathlib import Path

import soundfile

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_dir, write_json
from espnet_prune.data.kaldi_dir import DataDir, write_data_dir
from espnet_prune.data.synth import (
    FS,
    TEMPLATES,
    VARIANTS,
    WORDS,
    Recipe,
    make_utterance,
)
from espnet_prune.running.parallel import ordered_map

# Raise when the same options come to make different audio.
VERSION = 5


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="data", help="directory of the data sets")
    parser.add_argument("--prefix", default="synth_", help="of the sets' names")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--train", type=int, default=2000, help="utterances")
    parser.add_argument("--dev", type=int, default=150, help="utterances")
    parser.add_argument("--test", type=int, default=400, help="utterances")
    parser.add_argument("--snr_low", type=float, default=20.0, help="dB")
    parser.add_argument("--snr_high", type=float, default=40.0, help="dB")
    parser.add_argument(
        "--templates", type=str.split, default=TEMPLATES,
        help="of sentences: V(erb), N(oun), P(lace), D(igit), L(etter), as 'V N VNP'",
    )  # fmt: skip
    parser.add_argument("--nj", type=int, default=1, help="processes")
    return parser


def write_audio(job: tuple[Recipe, str]) -> tuple[str, str, str, float]:
    """Make one utterance; return its id, speaker, text and seconds."""
    recipe, folder = job
    utterance = make_utterance(recipe)
    path = Path(folder) / f"{utterance.key}.wav"
    soundfile.write(path, utterance.samples, FS, subtype="PCM_16")
    seconds = len(utterance.samples) / FS
    return utterance.key, utterance.speaker, utterance.text, seconds


def main() -> None:
    args = get_parser().parse_args()
    sizes = {subset: getattr(args, subset) for subset in VARIANTS}
    if min(sizes.values()) < 1:
        raise InputError("--train, --dev, --test", "a set needs an utterance")
    if args.snr_low > args.snr_high:
        raise InputError("--snr_low", "is above --snr_high", "swap them")
    if args.seed < 0:
        raise InputError("--seed", "is negative", "give 0 or more")
    if not args.templates or set("".join(args.templates)) - set(WORDS):
        mend = f"make them of the letters {' '.join(WORDS)}"
        raise InputError("--templates", f"{' '.join(args.templates)!r}", mend)
    templates = tuple(args.templates)
    out = Path(args.out)
    audio = out / f"{args.prefix}wav"
    done = audio / ".done"
    options = {
        "version": VERSION,
        "seed": args.seed,
        "snr_low": args.snr_low,
        "snr_high": args.snr_high,
        **sizes,
    }
    if templates != TEMPLATES:
        options["templates"] = [*templates]
    sets = {subset: out / f"{args.prefix}{subset}" for subset in sizes}
    if _is_done(done, options) and all(path.is_dir() for path in sets.values()):
        logging.info("%s has been made with these options: kept", audio)
        return
    data = {subset: DataDir({}, {}, {}) for subset in sizes}
    with atomic_dir(audio) as temporary:
        for subset, path in sets.items():
            (temporary / path.name).mkdir()
            jobs = [
                (
                    Recipe(
                        args.seed, subset, index, args.snr_low, args.snr_high, templates
                    ),
                    str(temporary / path.name),
                )
                for index in range(sizes[subset])
            ]
            total = 0.0
            for key, speaker, text, seconds in ordered_map(
                write_audio, jobs, args.nj, f"speaking {path.name}"
            ):
                data[subset].wav[key] = str(audio / path.name / f"{key}.wav")
                data[subset].text[key] = text
                data[subset].speakers[key] = speaker
                total += seconds
            logging.info(
                "%s: %d utterances, %d voices, %.1f min",
                path, len(jobs), len(set(data[subset].speakers.values())), total / 60,
            )  # fmt: skip
    for subset, path in sets.items():
        write_data_dir(path, data[subset])
    # Last: its absence marks a run that was killed on the way.
    write_json(done, options)


def _is_done(done: Path, options: dict) -> bool:
    try:
        return json.loads(done.read_text()) == options
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    run_main(main)

#!/usr/bin/env python3
"""Stage 1, corpus ``kaldi``: check and copy the user's own Kaldi directories.

The program writes ``<out>/<prefix>train``, ``<prefix>dev`` and, for each test
directory, ``<prefix>test`` or, where there are several, ``<prefix>test_<its name>``.
"""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.data.kaldi_dir import DataDir, read_data_dir, write_data_dir


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", required=True, help="Kaldi data directory")
    parser.add_argument("--dev", required=True, help="Kaldi data directory")
    parser.add_argument("--test", required=True, nargs="+", help="one or several")
    parser.add_argument("--out", default="data", help="directory of the data sets")
    parser.add_argument("--prefix", default="kaldi_", help="of the sets' names")
    return parser


def audio_of(data: DataDir) -> dict[str, tuple[object, ...]]:
    """Tell what each utterance is cut from: a source, and the stretch of it if any."""
    if data.segments is None:
        return {utt: (source,) for utt, source in data.wav.items()}
    return {
        utt: (data.wav[part.recording], part.start, part.end)
        for utt, part in data.segments.items()
    }


def main() -> None:
    args = get_parser().parse_args()
    sources = {"train": args.train, "dev": args.dev}
    if len(args.test) == 1:
        sources["test"] = args.test[0]
    else:
        for path in args.test:
            name = f"test_{Path(path).resolve().name}"
            if name in sources:
                raise InputError("--test", f"two are called {name}", "rename one")
            sources[name] = path
    targets = {name: Path(args.out) / f"{args.prefix}{name}" for name in sources}
    read = {name: read_data_dir(path) for name, path in sources.items()}
    for name, target in targets.items():
        if target.resolve() == Path(sources[name]).resolve():
            raise InputError(target, "is the directory to copy", "change --prefix")
    heard = {audio: utt for utt, audio in audio_of(read["train"]).items()}
    for name in list(read)[1:]:
        shared = [
            (utt, heard.get(audio, utt))
            for utt, audio in audio_of(read[name]).items()
            if audio in heard or utt in read["train"].text
        ]
        if shared:
            (utt, other), number = shared[0], len(shared)
            told = f"{number} utterances of {sources[name]} are in {sources['train']}"
            logging.warning(f"{told}, too: {utt} there is {other}")
    for name, target in targets.items():
        write_data_dir(target, read[name])
        logging.info("%s: %d utterances", target, len(read[name].text))


if __name__ == "__main__":
    run_main(main)

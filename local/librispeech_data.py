#!/usr/bin/env python3
"""Stage 1, corpora of LibriSpeech's layout: SUBSET/READER/CHAPTER/*.flac, *.trans.txt.

The program writes one data directory for each subset, ``<out>/<prefix>train_clean_100``
and so on; or, of one subset, ``<prefix>{train,dev,test}`` with ``--by_chapter``.
Utterances are called ``READER-CHAPTER-NNNN``, speakers ``READER-CHAPTER``, as ESPnet
and Kaldi call them.
"""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.table import read_table
from espnet_prune.data.kaldi_dir import DataDir, write_data_dir


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--librispeech", required=True, help="LibriSpeech, or the folder it is in"
    )
    parser.add_argument("--out", default="data", help="directory of the data sets")
    parser.add_argument("--prefix", default="librispeech_", help="of the sets' names")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--sets", help="subsets, as train-clean-100,test-clean; all unless given"
    )
    which.add_argument(
        "--by_chapter",
        metavar="SUBSET",
        help="split this subset: its last chapter's first half is dev and its second "
        "half test, all other chapters are train",
    )
    parser.add_argument(
        "--combine",
        metavar="NAME=SUBSET,SUBSET",
        action="append",
        default=[],
        help="a set of several subsets, as dev=dev-clean,dev-other",
    )
    return parser


def find_subsets(given: Path) -> dict[str, Path]:
    """Find the subsets, name -> folder, of the corpus at or in ``given``."""
    root = given / "LibriSpeech" if (given / "LibriSpeech").is_dir() else given
    found = {}
    if root.is_dir():
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            if next(folder.glob("*/*/*.trans.txt"), None):
                found[folder.name] = folder
    if not found:
        raise InputError(
            root,
            "holds no SUBSET/READER/CHAPTER/*.trans.txt",
            "unpack archives of https://www.openslr.org/12 and give the folder that "
            "holds LibriSpeech/",
        )
    return found


def read_chapter(folder: Path) -> DataDir:
    """Read the utterances of one READER/CHAPTER folder.

    Raises:
        InputError: transcripts and audio do not match one to one.
    """
    speaker = f"{folder.parent.name}-{folder.name}"
    transcript = folder / f"{speaker}.trans.txt"
    text = read_table(transcript)
    wav = {path.stem: str(path) for path in sorted(folder.glob("*.flac"))}
    for names, what in (
        (wav.keys() - text.keys(), "no line for"),
        (text.keys() - wav.keys(), "a line without audio for"),
        ({utterance for utterance in text if not text[utterance]}, "no words for"),
    ):
        if names:
            raise InputError(
                transcript,
                f"has {what} {len(names)} utterances, as {min(names)}",
                "unpack the archive again",
            )
    return DataDir(wav, text, dict.fromkeys(text, speaker))


def read_subset(folder: Path) -> list[DataDir]:
    """Read the chapters of a subset, in the order of reader and chapter."""
    chapters = [path for path in folder.glob("*/*") if path.is_dir()]
    return [read_chapter(path) for path in sorted(chapters)]


def join(chapters: list[DataDir]) -> DataDir:
    whole = DataDir({}, {}, {})
    for chapter in chapters:
        whole.wav |= chapter.wav
        whole.text |= chapter.text
        whole.speakers |= chapter.speakers
    return whole


def split_by_chapter(folder: Path) -> dict[str, DataDir]:
    """Split one subset into train, dev and test sets; dev and test share a chapter."""
    *others, last = read_subset(folder)
    utterances = sorted(last.text)
    if not others or len(utterances) < 2:
        raise InputError(
            folder,
            "has too few chapters or utterances to be split",
            "--by_chapter needs two chapters, the last of two utterances",
        )
    half = len(utterances) // 2
    return {
        "train": join(others),
        "dev": _select(last, utterances[:half]),
        "test": _select(last, utterances[half:]),
    }


def _select(data: DataDir, utterances: list[str]) -> DataDir:
    return DataDir(
        {u: data.wav[u] for u in utterances},
        {u: data.text[u] for u in utterances},
        {u: data.speakers[u] for u in utterances},
    )


def split_names(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def main() -> None:
    args = get_parser().parse_args()
    subsets = find_subsets(Path(args.librispeech))
    wanted = [args.by_chapter] if args.by_chapter else split_names(args.sets)
    combined = {}
    for text in args.combine:
        name, _, parts = text.partition("=")
        if not (name and parts):
            raise InputError(f"--combine {text}", "is no NAME=SUBSET,SUBSET")
        combined[name] = split_names(parts)
    for name in (*wanted, *(part for parts in combined.values() for part in parts)):
        if name not in subsets:
            raise InputError(
                args.librispeech,
                f"has no subset {name!r}",
                f"choose of {' '.join(subsets)}, or unpack it there",
            )
    if args.by_chapter:
        sets = split_by_chapter(subsets[args.by_chapter])
    else:
        sets = {
            name.replace("-", "_"): join(read_subset(subsets[name]))
            for name in wanted or subsets
        }
        for name, parts in combined.items():
            sets[name] = join([c for p in parts for c in read_subset(subsets[p])])
    for name, data in sets.items():
        path = Path(args.out) / f"{args.prefix}{name}"
        write_data_dir(path, data)
        logging.info("%s: %d utterances", path, len(data.text))


if __name__ == "__main__":
    run_main(main)

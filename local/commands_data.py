#!/usr/bin/env python3
"""Stage 1, corpus ``commands``: join words of Speech Commands to strings.

Words of one speaker are joined to strings of 2 to 6. Speakers are of one set alone: a
tenth of them is for the tests, another for development. What is downloaded are the
published test files of version 0.02 (Warden 2018, arXiv 1804.03209).
"""

import logging
import re
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.data.kaldi_dir import read_data_dir
from espnet_prune.data.strings import Split, Word, fetch, get_parser, write_strings

NAME = "speech_commands"
ARCHIVE = "speech_commands_test_set_v0.02.tar.gz"
URL = f"http://download.tensorflow.org/data/{ARCHIVE}"
USES = {"train": 2, "dev": 2, "test": 4}  # of a recording
LONGEST = 6  # words in a string
EVERY = 10  # of so many speakers one is for development, and one for the tests
# A file's name has its speaker, and in the folder of other words also the word.
_FILE = re.compile(r"(?:([a-z]+)_)?([0-9a-f]{8})_nohash_\d+")


def find_recordings(downloads: Path) -> Split:
    """Find the recordings under ``downloads``, or download them.

    The folder is as it was published, or has Kaldi directories ``train``, ``dev`` and
    ``test``, whose split is kept.

    Returns:
        set -> speaker -> recordings.
    """
    folder = downloads / NAME
    if all((folder / subset / "wav.scp").is_file() for subset in USES):
        return {subset: read_set(folder / subset) for subset in USES}
    if not folder.is_dir():
        fetch(URL, downloads / ARCHIVE, folder, "*/*.wav")
    return split_speakers(folder)


def read_set(folder: Path) -> dict[str, list[Word]]:
    """Read the recordings of a Kaldi directory by speaker."""
    data = read_data_dir(folder)
    if data.segments is not None:
        raise InputError(
            folder / "segments", "is not used", "give a file for each word"
        )
    found: dict[str, list[Word]] = {}
    for utt, path in sorted(data.wav.items()):
        found.setdefault(data.speakers[utt], []).append(
            Word(Path(path), data.text[utt])
        )
    return found


def split_speakers(folder: Path) -> Split:
    """Split the published files by speaker.

    Raises:
        InputError: there are too few speakers for three sets.
    """
    speakers: dict[str, list[Word]] = {}
    nameless = 0
    for path in sorted(folder.glob("*/*.wav")):
        match = _FILE.fullmatch(path.stem)
        word = (match and match[1]) or path.parent.name
        if match is None or not word.isalpha():
            nameless += 1  # noise, silence, and words that no name tells
            continue
        speakers.setdefault(match[2], []).append(Word(path, word.upper()))
    if nameless:
        logging.info(f"{folder}: {nameless} files name no word, and are left out")
    if len(speakers) < 2 * EVERY:
        what = f"holds words of {len(speakers)} speakers in WORD/SPEAKER_nohash_N.wav"
        raise InputError(folder, what, "give the files as they were published")
    split: dict[str, dict[str, list[Word]]] = {subset: {} for subset in USES}
    for number, (speaker, words) in enumerate(sorted(speakers.items())):
        subset = {0: "test", 1: "dev"}.get(number % EVERY, "train")
        split[subset][speaker] = words
    return split


def main() -> None:
    parser = get_parser(__doc__, "commands", f"{NAME}/WORD/*.wav", USES, 16000)
    args = parser.parse_args()
    write_strings(args, find_recordings(args.downloads), LONGEST)


if __name__ == "__main__":
    run_main(main)

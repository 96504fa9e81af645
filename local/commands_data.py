#!/usr/bin/env python3
"""Stage 1, corpus ``commands``: join words of Speech Commands to strings.

The ten command words of one speaker, cut to what is spoken, are joined to strings of 2
to 6. Speakers are of one set alone: a tenth of them is for the tests, another for
development. What is downloaded are the published test files of version 0.02 (Warden
2018, arXiv 1804.03209), which have too few recordings of the other words to learn them.
"""

import re
from pathlib import Path

import numpy as np

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.data.kaldi_dir import read_data_dir
from espnet_prune.data.strings import Split, Word, fetch, get_parser, write_strings

NAME = "speech_commands"
ARCHIVE = "speech_commands_test_set_v0.02.tar.gz"
URL = f"http://download.tensorflow.org/data/{ARCHIVE}"
USES = {"train": 2, "dev": 2, "test": 4}  # of a recording
LONGEST = 6  # words in a string
EVERY = 10  # of so many speakers one is for development, and one for the tests
WORDS = ("YES", "NO", "UP", "DOWN", "LEFT", "RIGHT", "ON", "OFF", "STOP", "GO")
_FILE = re.compile(r"([0-9a-f]{8})_nohash_\d+")  # the name has the speaker
# A word lasts while frames of 10 ms are at most so many dB below the loudest, and some
# frames before and after: weak fricatives.
_RANGE_DB, _MARGIN = 30, 6


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
        if (text := data.text[utt].upper()) in WORDS:
            found.setdefault(data.speakers[utt], []).append(Word(Path(path), text))
    if not found:
        what = f"has none of the words {' '.join(WORDS)}"
        raise InputError(folder / "text", what, "give a word for each recording")
    return found


def split_speakers(folder: Path) -> Split:
    """Split the published files by speaker.

    Raises:
        InputError: there are too few speakers for three sets.
    """
    speakers: dict[str, list[Word]] = {}
    for word in WORDS:
        for path in sorted((folder / word.lower()).glob("*.wav")):
            if match := _FILE.fullmatch(path.stem):
                speakers.setdefault(match[1], []).append(Word(path, word))
    if len(speakers) < 2 * EVERY:
        what = f"holds words of {len(speakers)} speakers in WORD/SPEAKER_nohash_N.wav"
        raise InputError(folder, what, "give the files as they were published")
    split: dict[str, dict[str, list[Word]]] = {subset: {} for subset in USES}
    for number, (speaker, words) in enumerate(sorted(speakers.items())):
        subset = {0: "test", 1: "dev"}.get(number % EVERY, "train")
        split[subset][speaker] = words
    return split


def cut_to_speech(samples: np.ndarray, fs: int) -> np.ndarray:
    """Cut what is quiet before and after a word; ``samples`` are of shape (time,)."""
    frame = fs // 100
    whole = len(samples) // frame
    energy = (samples[: whole * frame].reshape(whole, frame) ** 2).mean(1)
    loud = np.flatnonzero(energy >= energy.max(initial=0) * 10 ** (-_RANGE_DB / 10))
    if not len(loud):
        return samples
    start, end = max(loud[0] - _MARGIN, 0), loud[-1] + 1 + _MARGIN
    return samples[start * frame : end * frame]


def main() -> None:
    parser = get_parser(__doc__, "commands", f"{NAME}/WORD/*.wav", USES, 16000)
    args = parser.parse_args()
    write_strings(args, find_recordings(args.downloads), LONGEST, cut_to_speech)


if __name__ == "__main__":
    run_main(main)

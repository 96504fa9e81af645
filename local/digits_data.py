#!/usr/bin/env python3
"""Stage 1, corpus ``digits``: join the Free Spoken Digit Dataset to strings.

Recordings of one speaker are joined to strings of 2 to 7 digits. Recordings 0-7 of
every digit and speaker are the test set's, 8-9 the dev set's, the rest the train
set's: no recording is in two sets, but every speaker is in all three.
"""

from collections import defaultdict
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.data.strings import Word, fetch, get_parser, write_strings

NAME = "free-spoken-digit-dataset"
URL = f"https://github.com/Jakobovski/{NAME}/archive/refs/tags/v1.0.10.tar.gz"
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
USES = {"train": 3, "dev": 2, "test": 4}  # of a recording
LONGEST = 7  # digits in a string


def find_recordings(downloads: Path) -> Path:
    """Find the folder of recordings under ``downloads``, or download it."""
    for folder in (downloads / NAME / "recordings", downloads / "recordings"):
        if folder.is_dir():
            return folder
    archive = downloads / f"{NAME}.tar.gz"
    fetch(URL, archive, downloads / NAME, "recordings/*.wav")
    return downloads / NAME / "recordings"


def split_recordings(folder: Path) -> dict[str, dict[str, list[Word]]]:
    """Split recordings by the index in their names: set -> speaker -> recordings."""
    split: dict[str, dict[str, list[Word]]] = {s: defaultdict(list) for s in USES}
    for path in sorted(folder.glob("*.wav")):
        try:
            digit, speaker, index = path.stem.split("_")
            subset = (
                "test" if int(index) <= 7 else "dev" if int(index) <= 9 else "train"
            )
            word = Word(path, WORDS[int(digit)])
        except (ValueError, IndexError):
            raise InputError(
                path, "is not called digit_speaker_index.wav", "remove or rename it"
            ) from None
        split[subset][speaker].append(word)
    for subset, speakers in split.items():
        if not speakers:
            raise InputError(
                folder, f"has no recording of the {subset} set", "fetch all of it"
            )
    return split


def main() -> None:
    parser = get_parser(__doc__, "digits", f"{NAME}/recordings", USES, 8000)
    args = parser.parse_args()
    write_strings(args, split_recordings(find_recordings(args.downloads)), LONGEST)


if __name__ == "__main__":
    run_main(main)

#!/usr/bin/env python3
"""Stage 1, corpus ``digits``: join the Free Spoken Digit Dataset to strings.

Recordings of one speaker are joined to strings of 2 to 7 digits. Recordings 0-7 of
every digit and speaker are the test set's, 8-9 the dev set's, the rest the train
set's: no recording is in two sets, but every speaker is in all three.
"""

import argparse
import logging
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_dir, atomic_path
from espnet_prune.data.audio import load_utterance
from espnet_prune.data.kaldi_dir import DataDir, write_data_dir

NAME = "free-spoken-digit-dataset"
URL = f"https://github.com/Jakobovski/{NAME}/archive/refs/tags/v1.0.10.tar.gz"
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
SETS = ("train", "dev", "test")
# Between digits: seconds of silence, and its noise floor as a share of full scale.
_GAP_SECONDS = (0.0, 0.15)
_FLOOR = 2e-4


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--downloads", default="downloads", help=f"holds {NAME}/recordings"
    )
    parser.add_argument("--out", default="data", help="directory of the data sets")
    parser.add_argument("--prefix", default="digits_", help="of the sets' names")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--fs", type=int, default=8000, help="sampling rate, Hz")
    for name, times in zip(SETS, (3, 2, 4), strict=True):
        parser.add_argument(
            f"--repeat_{name}", type=int, default=times, help="uses of a recording"
        )
    return parser


def find_recordings(downloads: Path) -> Path:
    """Find the folder of recordings under ``downloads``, or download it."""
    for folder in (downloads / NAME / "recordings", downloads / "recordings"):
        if folder.is_dir():
            return folder
    target = downloads / NAME
    archive = downloads / f"{NAME}.tar.gz"
    if not archive.exists():
        logging.info("downloading %s", URL)
        try:
            with atomic_path(archive) as temporary:
                urllib.request.urlretrieve(URL, temporary)
        except (urllib.error.URLError, OSError) as e:
            raise InputError(
                URL,
                f"cannot be downloaded ({e})",
                f"put the dataset's recordings into {target / 'recordings'}, or its "
                f"archive at {archive}, and run again",
            ) from None
    with atomic_dir(target) as temporary:
        try:
            unpack_recordings(archive, temporary / "recordings")
        except (tarfile.TarError, zlib.error, OSError, EOFError) as e:
            raise InputError(
                archive, f"cannot be unpacked ({e})", "delete it and run again"
            ) from None
    return target / "recordings"


def unpack_recordings(archive: Path, folder: Path) -> None:
    """Copy the archive's ``*/recordings/*.wav`` to ``folder``, and nothing else."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.match("recordings/*.wav"):
                with (folder / path.name).open("wb") as f:
                    shutil.copyfileobj(tar.extractfile(member), f)
    if not any(folder.iterdir()):
        raise InputError(archive, "holds no recordings", "delete it and run again")


def split_recordings(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Split recordings by the index in their names: set -> speaker -> recordings."""
    split: dict[str, dict[str, list[Path]]] = {s: defaultdict(list) for s in SETS}
    for path in sorted(folder.glob("*.wav")):
        try:
            digit, speaker, index = path.stem.split("_")
            subset = (
                "test" if int(index) <= 7 else "dev" if int(index) <= 9 else "train"
            )
            WORDS[int(digit)]
        except (ValueError, IndexError):
            raise InputError(
                path, "is not called digit_speaker_index.wav", "remove or rename it"
            ) from None
        split[subset][speaker].append(path)
    for subset, speakers in split.items():
        if not speakers:
            raise InputError(
                folder, f"has no recording of the {subset} set", "fetch all of it"
            )
    return split


def join_strings(
    rng: np.random.Generator, recordings: list[Path], repeat: int
) -> list[list[Path]]:
    """Join strings of 2 to 7 recordings in random order, each used ``repeat`` times.

    The last string may be short; a recording that is left alone is not used.
    """
    strings = []
    for _ in range(repeat):
        order = [recordings[i] for i in rng.permutation(len(recordings))]
        while len(order) >= 2:
            length = int(rng.integers(2, 8))
            strings.append(order[:length])
            order = order[length:]
    return strings


def speak_string(
    rng: np.random.Generator, audio: dict[Path, np.ndarray], string: list[Path], fs: int
) -> np.ndarray:
    """Speak a string, (time,), with a short pause around and between digits."""
    parts = []
    for path in [*string, None]:
        gap = int(rng.uniform(*_GAP_SECONDS) * fs)
        # Not digital zero, which no microphone gives and whose logarithm is far off.
        parts.append(_FLOOR * rng.standard_normal(gap))
        if path is not None:
            parts.append(audio[path])
    return np.concatenate(parts).astype(np.float32)


def main() -> None:
    args = get_parser().parse_args()
    repeats = {subset: getattr(args, f"repeat_{subset}") for subset in SETS}
    if min(repeats.values()) < 1:
        raise InputError("--repeat_*", "a recording must be used", "give 1 or more")
    folder = find_recordings(Path(args.downloads))
    out = Path(args.out)
    audio_dir = out / f"{args.prefix}wav"
    data = {subset: DataDir({}, {}, {}) for subset in SETS}
    used: dict[Path, str] = {}
    with atomic_dir(audio_dir) as temporary:
        for number, (subset, speakers) in enumerate(split_recordings(folder).items()):
            rng = np.random.default_rng([args.seed, number])
            name = f"{args.prefix}{subset}"
            (temporary / name).mkdir()
            seconds = 0.0
            for speaker, recordings in speakers.items():
                audio = {p: load_utterance(str(p), args.fs).samples for p in recordings}
                strings = join_strings(rng, recordings, repeats[subset])
                for index, string in enumerate(strings):
                    for path in string:
                        assert used.setdefault(path, subset) == subset, path
                    key = f"{speaker}-{subset}{index:05d}"
                    samples = speak_string(rng, audio, string, args.fs)
                    file = f"{name}/{key}.wav"
                    soundfile.write(temporary / file, np.clip(samples, -1, 1), args.fs)
                    seconds += len(samples) / args.fs
                    data[subset].wav[key] = str(audio_dir / file)
                    data[subset].speakers[key] = speaker
                    data[subset].text[key] = " ".join(
                        WORDS[int(path.stem[0])] for path in string
                    )
            logging.info(
                "%s: %d strings of %d speakers, %.1f min",
                name, len(data[subset].text), len(speakers), seconds / 60,
            )  # fmt: skip
    for subset in SETS:
        write_data_dir(out / f"{args.prefix}{subset}", data[subset])


if __name__ == "__main__":
    run_main(main)

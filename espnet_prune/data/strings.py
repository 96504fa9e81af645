"""Join recordings of single words, within a speaker, to strings of words.

The recordings of each set are its own; their audio is read and written, and the tables
of Kaldi directories beside it.
"""

import argparse
import logging
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_dir, atomic_path
from espnet_prune.data.audio import load_utterance
from espnet_prune.data.kaldi_dir import DataDir, write_data_dir

# Between words: seconds of silence, and its noise floor as a share of full scale.
_GAP_SECONDS = (0.0, 0.15)
_FLOOR = 2e-4


@dataclass(frozen=True)
class Word:
    """A recording of one word.

    Args:
        path: the audio file.
        text: what is said.
    """

    path: Path
    text: str


# Set (train, dev, test) -> speaker -> recordings.
Split = Mapping[str, Mapping[str, list[Word]]]


def get_parser(
    doc: str, corpus: str, where: str, uses: Mapping[str, int], fs: int
) -> argparse.ArgumentParser:
    """Make the parser of a corpus's stage 1.

    Args:
        doc: the program's docstring, whose first line is the description.
        corpus: the corpus's name.
        where: what ``--downloads`` holds.
        uses: set -> uses of a recording, by default.
        fs: sampling rate in Hz, by default.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument(
        "--downloads", type=Path, default="downloads", help=f"holds {where}"
    )
    parser.add_argument(
        "--out", type=Path, default="data", help="directory of the data sets"
    )
    parser.add_argument("--prefix", default=f"{corpus}_", help="of the sets' names")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--fs", type=int, default=fs, help="sampling rate, Hz")
    for name, times in uses.items():
        parser.add_argument(
            f"--repeat_{name}", type=int, default=times, help="uses of a recording"
        )
    return parser


def fetch(url: str, archive: Path, folder: Path, pattern: str) -> None:
    """Download an archive, if it is not there, and unpack some of its files.

    Args:
        url: of the archive.
        archive: where it is, or will be.
        folder: the new folder; appears only once all is unpacked.
        pattern: of the files' paths in the archive, as ``recordings/*.wav``; as much of
            a path as the pattern has is kept.

    Raises:
        InputError: there is no archive to be had, it is damaged, or holds no such file.
    """
    if not archive.exists():
        logging.info(f"downloading {url}")
        try:
            with atomic_path(archive) as temporary:
                urllib.request.urlretrieve(url, temporary)
        except (urllib.error.URLError, OSError) as e:
            raise InputError(
                url,
                f"cannot be downloaded ({e})",
                f"put the dataset's recordings into {folder}, or its "
                f"archive at {archive}, and run again",
            ) from None
    depth = len(PurePosixPath(pattern).parts)
    with atomic_dir(folder) as temporary:
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    inside = ".." not in path.parts
                    if member.isfile() and inside and path.match(pattern):
                        target = temporary.joinpath(*path.parts[-depth:])
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as f:
                            shutil.copyfileobj(tar.extractfile(member), f)
        except (tarfile.TarError, zlib.error, OSError, EOFError) as e:
            raise InputError(
                archive, f"cannot be unpacked ({e})", "delete it and run again"
            ) from None
        if not any(temporary.iterdir()):
            raise InputError(archive, "holds no recordings", "delete it and run again")


def join_strings(
    rng: np.random.Generator, recordings: list[Word], repeat: int, longest: int
) -> list[list[Word]]:
    """Join strings of 2 or more recordings in random order, each used ``repeat`` times.

    The last string may be short; a recording that is left alone is not used.

    Args:
        rng: where lengths and order are drawn.
        recordings: of one speaker.
        repeat: how often each is used.
        longest: recordings in a string, at most.
    """
    strings = []
    for _ in range(repeat):
        order = [recordings[i] for i in rng.permutation(len(recordings))]
        while len(order) >= 2:
            length = int(rng.integers(2, longest + 1))
            strings.append(order[:length])
            order = order[length:]
    return strings


def speak_string(
    rng: np.random.Generator, audio: Mapping[Path, np.ndarray], string: list[Word],
    fs: int,
) -> np.ndarray:  # fmt: skip
    """Speak a string, (time,), with a short pause around and between words."""
    parts = []
    for word in [*string, None]:
        gap = int(rng.uniform(*_GAP_SECONDS) * fs)
        # Not digital zero, which no microphone gives and whose logarithm is far off.
        parts.append(_FLOOR * rng.standard_normal(gap))
        if word is not None:
            parts.append(audio[word.path])
    return np.concatenate(parts).astype(np.float32)


def write_strings(
    args: argparse.Namespace,
    split: Split,
    longest: int,
    prepare: Callable[[np.ndarray, int], np.ndarray] = lambda samples, _fs: samples,
) -> None:
    """Write the Kaldi directories of all sets, and their audio.

    Args:
        args: options of :func:`get_parser`.
        split: set -> speaker -> recordings; no recording is in two sets.
        longest: recordings in a string, at most.
        prepare: makes of a recording, (time,), and its rate in Hz what is joined.

    Raises:
        InputError: a recording cannot be read or used.
    """
    repeats = {subset: getattr(args, f"repeat_{subset}") for subset in split}
    if min(repeats.values()) < 1:
        raise InputError("--repeat_*", "a recording must be used", "give 1 or more")
    audio_dir, fs = args.out / f"{args.prefix}wav", args.fs
    data = {subset: DataDir({}, {}, {}) for subset in split}
    used: dict[Path, str] = {}
    with atomic_dir(audio_dir) as temporary:
        for number, (subset, speakers) in enumerate(split.items()):
            rng = np.random.default_rng([args.seed, number])
            name = f"{args.prefix}{subset}"
            (temporary / name).mkdir()
            seconds = 0.0
            for speaker, recordings in speakers.items():
                audio = {
                    word.path: prepare(load_utterance(str(word.path), fs).samples, fs)
                    for word in recordings
                }
                strings = join_strings(rng, recordings, repeats[subset], longest)
                for index, string in enumerate(strings):
                    for word in string:
                        if used.setdefault(word.path, subset) != subset:
                            what = f"is in {used[word.path]}, too"
                            mend = "give each recording to one set"
                            raise InputError(f"{subset}: {word.path}", what, mend)
                    utt = f"{speaker}-{subset}{index:05d}"
                    samples = speak_string(rng, audio, string, fs)
                    file = f"{name}/{utt}.wav"
                    soundfile.write(temporary / file, np.clip(samples, -1, 1), fs)
                    seconds += len(samples) / fs
                    data[subset].wav[utt] = str(audio_dir / file)
                    data[subset].speakers[utt] = speaker
                    data[subset].text[utt] = " ".join(word.text for word in string)
            told = f"{len(data[subset].text)} strings of {len(speakers)} speakers"
            logging.info(f"{name}: {told}, {seconds / 60:.1f} min")
    for subset, own in data.items():
        write_data_dir(args.out / f"{args.prefix}{subset}", own)

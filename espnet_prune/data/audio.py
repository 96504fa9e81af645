"""Read one utterance's audio, from a file, a pipe or a Kaldi archive."""

import hashlib
import logging
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np
import soxr

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint
from espnet_prune.base.table import read_table
from espnet_prune.data.sound_file import MEND, read_sound, stretch

AUDIO_DIGEST = "audio.sha256"  # in a formatted set: a digest of all its samples
# Beyond full scale: an instant is clipped, more is scaled, and far more is a mistake.
_INSTANT = 1e-3  # of the samples
_MOST = 8.0


@dataclass(frozen=True)
class Audio:
    """Mono samples and what they were made from.

    Attributes:
        samples: float32 (time,), nominally in [-1, 1].
        source_fs: the file's own rate in Hz.
        channels: the file's own number of channels.
        scaled: whether the samples went beyond full scale, for more than an instant,
            and were scaled to it.
    """

    samples: np.ndarray
    source_fs: int
    channels: int
    scaled: bool = False


def load_source(
    value: str,
    start: float = 0.0,
    end: float | None = None,
    run: Callable[[str], bytes] | None = None,
) -> tuple[np.ndarray, int]:
    """Read a ``wav.scp`` value, or a stretch of it.

    Args:
        value: a path, ``command |`` (run by the shell, as Kaldi does: the data
            directory is the user's own), or ``file.ark:offset``.
        start, end: the stretch, in seconds; an ``end`` of None is the recording's end.
        run: instead of :func:`run_pipe`, as one that remembers what it ran last.

    Returns:
        The samples, float32 (time, channels), and their rate in Hz.

    Raises:
        InputError: the audio is missing, corrupt, cut off, empty, not finite or far
            beyond full scale, or the stretch lies outside of it.
    """
    file = file_of(value)
    if file is None:
        samples, fs = read_sound((run or run_pipe)(value), value, start, end)
    elif file != value:
        samples, fs = _read_ark(value)
        samples = samples[slice(*stretch(value, len(samples), fs, start, end))]
    else:
        samples, fs = read_sound(value, value, start, end)
    if not np.isfinite(samples).all():
        raise InputError(value, "holds samples that are not finite", MEND)
    if (peak := float(np.abs(samples).max(initial=0))) > _MOST:
        raise InputError(
            value,
            f"holds samples of up to {peak:.4g}, where 1 is full scale",
            "divide them, by 32768 if that was the scale, or " + MEND,
        )
    return samples, fs


def file_of(value: str) -> str | None:
    """The function returns the file that a ``wav.scp`` value names; None for a pipe."""
    if value.endswith("|"):
        return None
    file, colon, offset = value.rpartition(":")
    return file if colon and offset.isdigit() else value


def audio_digest(scp: Path) -> str:
    """The function returns a SHA-256 of what the files of a ``wav.scp`` hold, in order.

    Of a formatted set it is noted beside the table. What a command will give cannot be
    seen: with one among them it is never the same.

    Args:
        scp: the table; archives in it count as a whole.

    Raises:
        InputError: a file cannot be read.
    """
    noted = scp.with_name(AUDIO_DIGEST)
    if noted.is_file():
        return noted.read_text()
    files = [file_of(value) for value in read_table(scp).values()]
    held = {}
    try:
        for file in files:
            if file is not None and file not in held:
                held[file] = fingerprint(file)
    except OSError as e:
        what = f"{file} cannot be read ({e.strerror})"
        raise InputError(scp, what, "run the stages that make it") from None
    if None in files:
        logging.info(f"{scp}: commands give audio: what is made of it is not kept")
        held[None] = uuid.uuid4().hex
    return hashlib.sha256(" ".join(held[file] for file in files).encode()).hexdigest()


def check_rate(scp: Path, fs: int, model: object) -> None:
    """Refuse audio of another rate than ``model`` hears: ESPnet would not notice.

    Args:
        scp: a formatted set's ``wav.scp``; its first utterance stands for all.
        fs: the model's rate in Hz.
        model: what to call it in the message.

    Raises:
        InputError: the rates differ.
    """
    first = next(iter(read_table(scp, "run stages 1-4").values()))
    _, rate = load_source(first)
    if rate != fs:
        raise InputError(
            scp,
            f"holds audio of {rate} Hz, but {model} hears {fs} Hz",
            f"make it anew with --fs {fs} (stages 3 and 4)",
        )


def load_utterance(
    value: str,
    fs: int,
    start: float = 0.0,
    end: float | None = None,
    speed: float = 1.0,
    run: Callable[[str], bytes] | None = None,
) -> Audio:
    """Read an utterance as mono at the wanted rate.

    Args:
        value, start, end, run: as for :func:`load_source`.
        fs: the wanted rate in Hz.
        speed: playback speed; 0.9 is slower and lower, as sox's ``speed`` makes it.

    Raises:
        InputError: as :func:`load_source` does.
    """
    samples, source_fs = load_source(value, start, end, run)
    mono = samples.mean(axis=1, dtype=np.float32)
    if scaled := len(mono) > 0 and (abs(mono) > 1).mean() > _INSTANT:
        mono /= abs(mono).max()
    if source_fs * speed != fs:
        mono = soxr.resample(mono, source_fs * speed, fs, quality="HQ")
    return Audio(mono, source_fs, samples.shape[1], bool(scaled))


def run_pipe(value: str) -> bytes:
    """Run the command of a ``wav.scp`` value, and return what it writes.

    Raises:
        InputError: the command fails.
    """
    # Without an end of its input, one that reads it would wait for ever.
    done = subprocess.run(
        value[:-1], shell=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise InputError(
            value,
            f"the command ended with status {done.returncode} ({reason})",
            "run it by hand: is the program installed, and its input there?",
        )
    return done.stdout


def _read_ark(value: str) -> tuple[np.ndarray, int]:
    try:
        loaded = kaldiio.load_mat(value)
    except Exception as e:  # kaldiio lets whatever it stumbles on through
        raise InputError(value, f"cannot be read as a Kaldi archive ({e})", MEND) from e
    if not isinstance(loaded, tuple):
        raise InputError(
            value, "holds features, not audio", "give an archive of wave files"
        )
    fs, samples = loaded if isinstance(loaded[0], int) else loaded[::-1]
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return np.atleast_2d(samples.T).T.astype(np.float32), fs

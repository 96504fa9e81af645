"""One utterance's audio, from a file, a pipe or a Kaldi archive."""

import io
import subprocess
from dataclasses import dataclass

import kaldiio
import numpy as np
import soundfile
import soxr

from espnet_prune.errors import InputError

# Kaldi's extract-segments forgives an end this far behind the recording's (seconds).
_MAX_OVERSHOOT = 0.5
_MEND = 'replace or remove the recording, or drop such: --format_args "--skip_bad"'


@dataclass(frozen=True)
class Audio:
    """Mono samples and what they were made from.

    Attributes:
        samples: float32 (time,), nominally in [-1, 1].
        source_fs: the file's own rate in Hz.
        channels: the file's own number of channels.
    """

    samples: np.ndarray
    source_fs: int
    channels: int


def load_source(value: str) -> tuple[np.ndarray, int]:
    """Read the whole of a ``wav.scp`` value.

    Args:
        value: a path, ``command |`` (run by the shell, as Kaldi does: the data
            directory is the user's own), or ``file.ark:offset``.

    Returns:
        The samples, float32 (time, channels), and their rate in Hz.

    Raises:
        InputError: the audio is missing, corrupt, empty or not finite.
    """
    if value.endswith("|"):
        samples, fs = _read_pipe(value)
    elif value.rpartition(":")[2].isdigit() and ":" in value:
        samples, fs = _read_ark(value)
    else:
        samples, fs = _read_sound(value, value)
    if len(samples) == 0:
        raise InputError(value, "holds no audio samples", _MEND)
    if not np.isfinite(samples).all():
        raise InputError(value, "holds samples that are not finite", _MEND)
    return samples, fs


def load_utterance(
    value: str,
    fs: int,
    start: float = 0.0,
    end: float | None = None,
    speed: float = 1.0,
) -> Audio:
    """Read an utterance as mono at the wanted rate.

    Args:
        value: as for :func:`load_source`.
        fs: the wanted rate in Hz.
        start, end: the stretch of the recording, in its own seconds; an ``end`` of
            None is the recording's end.
        speed: playback speed; 0.9 is slower and lower, as sox's ``speed`` makes it.

    Raises:
        InputError: the audio cannot be read, or the stretch lies outside of it.
    """
    samples, source_fs = load_source(value)
    first = round(start * source_fs)
    last = len(samples) if end is None else round(end * source_fs)
    if first >= len(samples) or last > len(samples) + _MAX_OVERSHOOT * source_fs:
        raise InputError(
            value,
            f"lasts {len(samples) / source_fs:.2f} s, but a segment goes from "
            f"{start} s to {'its end' if end is None else f'{end} s'}",
            "correct the segments file",
        )
    channels = samples.shape[1]
    mono = samples[first:last].mean(axis=1, dtype=np.float32)
    if source_fs * speed != fs:
        mono = soxr.resample(mono, source_fs * speed, fs, quality="HQ")
    return Audio(mono, source_fs, channels)


def _read_sound(source: str | io.BytesIO, name: str) -> tuple[np.ndarray, int]:
    try:
        return soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as e:
        raise InputError(
            name, f"cannot be read as audio ({str(e).rstrip('.')})", _MEND
        ) from None


def _read_pipe(value: str) -> tuple[np.ndarray, int]:
    done = subprocess.run(value[:-1], shell=True, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise InputError(
            value,
            f"the command ended with status {done.returncode} ({reason})",
            "run it by hand: is the program installed, and its input there?",
        )
    return _read_sound(io.BytesIO(done.stdout), value)


def _read_ark(value: str) -> tuple[np.ndarray, int]:
    try:
        loaded = kaldiio.load_mat(value)
    except Exception as e:  # kaldiio lets whatever it stumbles on through
        raise InputError(
            value, f"cannot be read as a Kaldi archive ({e})", _MEND
        ) from e
    if not isinstance(loaded, tuple):
        raise InputError(
            value, "holds features, not audio", "give an archive of wave files"
        )
    fs, samples = loaded if isinstance(loaded[0], int) else loaded[::-1]
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return np.atleast_2d(samples.T).T.astype(np.float32), fs

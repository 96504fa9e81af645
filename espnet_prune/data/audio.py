"""Read one utterance's audio, from a file, a pipe or a Kaldi archive."""

import hashlib
import logging
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kaldiio
import numpy as np
import soxr

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint
from espnet_prune.base.table import read_table
from espnet_prune.data.sound_file import BLOCK, MEND, read_blocks, stretch
from espnet_prune.data.sound_length import Source

AUDIO_DIGEST = "audio.sha256"  # in a formatted set: a digest of all its samples
# Beyond full scale: an instant is clipped, more is scaled, and far more is a mistake.
_INSTANT = 1e-3  # of the samples
_FULL = 1 - 2**-15  # as 16 bits have it
_MOST = 8.0
_CANCELLED = 1e-3  # of the channels' power: their mean has less where they cancel
# Mono samples: what is longer is read a second time, and never in memory as a whole.
_SHORT = 1 << 22

Opener = Callable[[str], Source]  # a value of wav.scp, as open_source does


@dataclass(frozen=True)
class Audio:
    """Mono audio, and what it was made from.

    Attributes:
        blocks: called, it gives the samples from the first on, float32 (time,) each,
            nominally in [-1, 1].
        source_fs, channels: the file's own rate in Hz, and number of channels.
        scaled: whether the samples went beyond full scale, for more than an instant,
            and were scaled to it.
        clipped: whether whoever wrote the file had cut them off there, for as long.
    """

    blocks: Callable[[], Iterator[np.ndarray]]
    source_fs: int
    channels: int
    scaled: bool
    clipped: bool

    @property
    def samples(self) -> np.ndarray:
        """Read all samples, float32 (time,)."""
        return np.concatenate([*self.blocks()])


def source_blocks(
    value: str,
    start: float = 0.0,
    end: float | None = None,
    opener: Opener | None = None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Read a ``wav.scp`` value, or a stretch of it, block by block.

    Args:
        value: a path, ``command |`` (run by the shell, as Kaldi does: the data
            directory is the user's own), or ``file.ark:offset``.
        start, end: the stretch, in seconds; an ``end`` of None is the recording's end.
        opener: instead of :func:`open_source`, as one that remembers the last.

    Yields:
        The next samples, float32 (time, channels), and their rate in Hz; once at least.

    Raises:
        InputError: the audio is missing, corrupt, cut off, empty, not finite or far
            beyond full scale, or the stretch lies outside of it.
    """
    file = file_of(value)
    if file is None or file == value:
        blocks = read_blocks((opener or open_source)(value), value, start, end)
    else:
        blocks = _ark_blocks(value, start, end)
    for samples, fs in blocks:
        if not np.isfinite(samples).all():
            raise InputError(value, "holds samples that are not finite", MEND)
        if (peak := float(np.abs(samples).max(initial=0))) > _MOST:
            raise InputError(
                value,
                f"holds samples of up to {peak:.4g}, where 1 is full scale",
                "divide them, by 32768 if that was the scale, or " + MEND,
            )
        yield samples, fs


def load_source(value: str) -> tuple[np.ndarray, int]:
    """Read the whole of a ``wav.scp`` value.

    Returns, raises: as :func:`source_blocks` yields and does.
    """
    blocks, rates = zip(*source_blocks(value), strict=True)
    return np.concatenate(blocks), rates[0]


def rate_of(value: str) -> int:
    """Tell the rate, in Hz, of a ``wav.scp`` value.

    Raises:
        InputError: as :func:`source_blocks` does.
    """
    return next(source_blocks(value))[1]


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
    if (rate := rate_of(first)) != fs:
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
    opener: Opener | None = None,
) -> Audio:
    """Look through an utterance, for it to be read as mono at the wanted rate.

    Args:
        value, start, end, opener: as for :func:`source_blocks`.
        fs: the wanted rate in Hz.
        speed: playback speed; 0.9 is slower and lower, as sox's ``speed`` makes it.

    Raises:
        InputError: as :func:`source_blocks` does.
    """
    opened = (opener or open_source)(value)

    def read() -> Iterator[tuple[np.ndarray, int, int]]:
        for samples, rate in source_blocks(value, start, end, lambda _: opened):
            mono = samples.mean(axis=1, dtype=np.float32)
            nonlocal power, left
            power, left = power + np.mean(samples**2, axis=1).sum(), left + mono @ mono
            yield mono, rate, samples.shape[1]

    power, left = 0.0, 0.0  # of the channels, and of their mean
    kept, total, full, beyond, peak = [], 0, 0, 0, np.float32(0)
    for mono, *of_file in read():
        source_fs, channels = of_file
        total += len(mono)
        size = abs(mono)
        full, beyond = full + (size >= _FULL).sum(), beyond + (size > 1).sum()
        peak = max(peak, size.max(initial=0))
        if total <= _SHORT:
            kept.append(mono)
    if left < _CANCELLED * power:
        what = f"its {channels} channels cancel each other: their mean is silent"
        mend = "pick one by a pipe in wav.scp, as: sox FILE -t wav - remix 1 |"
        raise InputError(value, what, mend)
    scaled, clipped = (bool(n > _INSTANT * total) for n in (beyond, full - beyond))

    def blocks() -> Iterator[np.ndarray]:
        found = kept if total <= _SHORT else (mono for mono, *_ in read())
        if scaled:
            found = (mono / peak for mono in found)
        if source_fs * speed == fs:
            yield from found
            return
        # The same numbers as of the whole at once.
        stream = soxr.ResampleStream(source_fs * speed, fs, 1, "float32", "HQ")
        for mono in found:
            yield stream.resample_chunk(mono)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)

    return Audio(blocks, source_fs, channels, scaled, clipped)


def array_split(
    blocks: Iterator[np.ndarray], total: int, parts: int
) -> Iterator[np.ndarray]:
    """Split samples as :func:`numpy.array_split` does, with one part in memory.

    Args:
        blocks: the samples, (time,) each.
        total: how many samples they have together.
        parts: how many to make; the first ``total % parts`` have one sample more.
    """
    held = np.zeros(0, np.float32)
    for number in range(parts):
        size = total // parts + (number < total % parts)
        some = [held]
        while sum(map(len, some)) < size:
            some.append(next(blocks))
        held = np.concatenate(some)
        yield held[:size]
        held = held[size:]


def open_source(value: str) -> Source:
    """Run the command of a ``wav.scp`` value, and return a file of what it writes.

    The file, in the folder ``TMPDIR``, has no name: it ends with the process. A value
    that is no command comes back as it is.

    Raises:
        InputError: the command fails.
    """
    if file_of(value) is not None:
        return value
    output = tempfile.TemporaryFile()
    # Without an end of its input, one that reads it would wait for ever.
    done = subprocess.run(
        value[:-1],
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise InputError(
            value,
            f"the command ended with status {done.returncode} ({reason})",
            "run it by hand: is the program installed, and its input there?",
        )
    return output


def _ark_blocks(
    value: str, start: float, end: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    try:
        loaded = kaldiio.load_mat(value)
    except Exception as e:  # kaldiio lets whatever it stumbles on through
        raise InputError(value, f"cannot be read as a Kaldi archive ({e})", MEND) from e
    if not isinstance(loaded, tuple):
        raise InputError(
            value, "holds features, not audio", "give an archive of wave files"
        )
    fs, samples = loaded if isinstance(loaded[0], int) else loaded[::-1]
    first, last = stretch(value, len(samples), fs, start, end)
    for at in range(first, max(last, first + 1), BLOCK):
        block = samples[at : min(at + BLOCK, last)]
        if np.issubdtype(block.dtype, np.integer):
            block = block / -float(np.iinfo(block.dtype).min)
        yield np.atleast_2d(block.T).T.astype(np.float32), fs

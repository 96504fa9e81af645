"""Read a sound file to its end, or say that it has none: what decodes is its length."""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.data.sound_length import (
    MP3_LENGTH,
    Source,
    behind_id3,
    goes_on,
    is_chained,
    is_cut_off,
    opened,
    tells_its_length,
)

# Kaldi's extract-segments forgives an end this far behind the recording's (seconds).
_MAX_OVERSHOOT = 0.5
MEND = 'replace or remove the recording, or drop such: --format_args "--skip_bad"'
_WRITE_ANEW = f"write it anew as one (ffmpeg -i FILE NEW.flac), or {MEND}"
_BELIEVE_NOT = f"write it anew (ffmpeg -ignore_length 1 -i FILE NEW.flac), or {MEND}"
_UNTOLD = 2**63 - 1  # samples that libsndfile says of a FLAC that was streamed
_RUN_UP = 32 * 1152  # samples: a frame of MP3 is made of those before it, too
BLOCK = 1 << 16  # samples: what is in memory of a recording of hours


class _Stream(soundfile.SoundFile):
    """The file is read on and on.

    Otherwise soundfile seeks, after each block, to where it is, and what follows of an
    MP3 is damaged.
    """

    def seekable(self) -> bool:
        return False


def read_blocks(
    source: Source, name: str, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Read a file, or a stretch of it, by libsndfile, block by block.

    Args:
        source: the file.
        name: what to call it in messages.
        start, end: the stretch, in seconds; an ``end`` of None is the file's end.

    Yields:
        The next samples, float32 (time, channels), and their rate in Hz; once at least.

    Raises:
        InputError: the file is none that libsndfile reads, is damaged or cut off, or
            the stretch lies outside of it.
    """
    try:
        if not isinstance(source, str):
            source.seek(0)
        # Only the stretch is decoded, but of a file that does not tell its length: a
        # recording of hours may have a thousand.
        with _Stream(source) as f:
            if f.format == "MP3" and not tells_its_length(source):
                yield from _read_to_the_end(source, name, start, end)
                return
            if f.frames == _UNTOLD:
                at = yield from _until_the_end(f, start, end)
                stretch(name, at, f.samplerate, start, end)
                return
            if is_cut_off(f, source):
                raise InputError(name, "ends before its length says", MEND)
            within = end is not None and end * f.samplerate <= len(f)
            if goes_on(source):
                what = f"holds more than the {len(f) / f.samplerate:.2f} s that it says"
                raise InputError(name, what, _BELIEVE_NOT)
            if f.format == "OGG" and not within and is_chained(source):
                what = "is several Ogg streams in a row, and the first alone is read"
                raise InputError(name, what, _WRITE_ANEW)
            first, last = stretch(name, len(f), f.samplerate, start, end)
            if first:  # some codecs cannot seek
                before = min(first, _RUN_UP) if f.format == "MP3" else 0
                f.seek(first - before)
                f.read(before)
            for at in range(first, max(last, first + 1), BLOCK):
                wanted = min(BLOCK, last - at)
                samples = f.read(wanted, dtype="float32", always_2d=True)
                if len(samples) < wanted:
                    raise InputError(name, "ends before its length says", MEND)
                yield samples, f.samplerate
    except InputError:
        raise
    except (soundfile.LibsndfileError, OSError, ValueError, MemoryError) as e:
        raise InputError(
            name, f"cannot be read as audio ({str(e).rstrip('.')})", MEND
        ) from None


def seekable(source: Source) -> Source:
    """Return a file with the same samples, a stretch of which is soon found.

    That is the file itself; or, of one that does not tell its length, one without a
    name, in ``TMPDIR``, of what it decodes to: an hour of 44.1 kHz stereo is 1.3 GB.
    """
    with suppress(InputError, soundfile.LibsndfileError, OSError):  # who reads it tells
        if not isinstance(source, str):
            source.seek(0)
        with soundfile.SoundFile(source) as f:
            rate, channels = f.samplerate, f.channels
            told = f.frames < _UNTOLD
            told = told and (f.format != "MP3" or tells_its_length(source))
        if not told:
            decoded = tempfile.TemporaryFile()
            with soundfile.SoundFile(
                decoded, "w", rate, channels, "FLOAT", format="W64"
            ) as f:
                for samples, _ in read_blocks(source, str(source)):
                    f.write(samples)
            return decoded
    return source


def stretch(
    name: str, total: int, fs: int, start: float, end: float | None
) -> tuple[int, int]:
    """Find a stretch's first sample, and the one after its last, among ``total``.

    Raises:
        InputError: there are no samples, or the stretch lies outside of them.
    """
    if total == 0:
        raise InputError(name, "holds no audio samples", MEND)
    first = round(start * fs)
    last = total if end is None else round(end * fs)
    if first >= total or last > total + _MAX_OVERSHOOT * fs:
        raise InputError(
            name,
            f"lasts {total / fs:.2f} s, but a segment goes from "
            f"{start} s to {'its end' if end is None else f'{end} s'}",
            "correct the segments file",
        )
    return first, min(last, total)


def _until_the_end(
    f: soundfile.SoundFile, start: float, end: float | None
) -> Generator[tuple[np.ndarray, int], None, int]:
    """Decode from the first sample on, and return how many there were until the end."""
    at, rate = 0, f.samplerate
    first = round(start * rate)
    last = sys.maxsize if end is None else round(end * rate)
    while at < last and len(block := f.read(BLOCK, dtype="float32", always_2d=True)):
        yield block[max(0, first - at) : max(0, last - at)], rate
        at += len(block)
    return at


def _read_to_the_end(
    source: Source, name: str, start: float, end: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Decode as a stream, whose length libsndfile does not guess."""
    output, given = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(given, "wb") as pipe:
            with opened(source) as f:
                f.seek(behind_id3(source))
                first = f.read(4096)
                if found := MP3_LENGTH.search(first):  # or decoding would end there
                    mark = found.start(1)
                    first = first[:mark] + bytes(4) + first[mark + 4 :]
                pipe.write(first)
                shutil.copyfileobj(f, pipe)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        with soundfile.SoundFile(output, closefd=False) as f:
            at = yield from _until_the_end(f, start, end)
            inside = end is not None and at >= round(end * f.samplerate)
            if not inside and os.read(output, 1):
                what = "changes its sampling rate or its channels on the way"
                raise InputError(name, what, _WRITE_ANEW)
            stretch(name, at, f.samplerate, start, end)
    finally:
        os.close(output)
        feeding.join()

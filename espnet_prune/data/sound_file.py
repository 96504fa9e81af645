"""Read a sound file whole, or say that it is not: what decodes is its length."""

import io
import os
import re
import threading
from contextlib import suppress

import numpy as np
import soundfile

from espnet_prune.base.errors import InputError

# Kaldi's extract-segments forgives an end this far behind the recording's (seconds).
_MAX_OVERSHOOT = 0.5
MEND = 'replace or remove the recording, or drop such: --format_args "--skip_bad"'
# Where libsndfile finds fewer samples than a header says: in WAV, AIFF, AU, W64, RF64.
_SHORT = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.M
)
_STREAMED = 0x40000000  # from here on a length says: written before it was known
_PADDING = 64  # bytes by which sloppy headers are off
_OGG_PAGE = 65307  # bytes, at most
_BLOCK = 1 << 16  # samples

Source = str | bytes  # a path, or what the file holds


def read_sound(
    source: Source, name: str, start: float = 0.0, end: float | None = None
) -> tuple[np.ndarray, int]:
    """Read a file, or a stretch of it, by libsndfile.

    Args:
        source: the file.
        name: what to call it in messages.
        start, end: the stretch, in seconds; an ``end`` of None is the file's end.

    Returns:
        The samples, float32 (time, channels), and their rate in Hz.

    Raises:
        InputError: the file is none that libsndfile reads, is damaged or cut off, or
            the stretch lies outside of it.
    """
    try:
        # Only the stretch is decoded, but of an MP3 without a header: a recording of
        # hours may have a thousand.
        with soundfile.SoundFile(_opened(source)) as f:
            if f.format == "MP3" and not _tells_its_length(source):
                samples, rate = _read_to_the_end(source)
                first, last = stretch(name, len(samples), rate, start, end)
                return samples[first:last], rate
            if _is_cut_off(f, source):
                raise InputError(name, "ends before its length says", MEND)
            first, last = stretch(name, len(f), f.samplerate, start, end)
            if first:  # some codecs cannot seek
                f.seek(first)
            samples = f.read(last - first, dtype="float32", always_2d=True)
            if len(samples) < last - first:
                raise InputError(name, "ends before its length says", MEND)
            return samples, f.samplerate
    except InputError:
        raise
    except (soundfile.LibsndfileError, OSError, ValueError, MemoryError) as e:
        raise InputError(
            name, f"cannot be read as audio ({str(e).rstrip('.')})", MEND
        ) from None


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


def _opened(source: Source) -> str | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _bytes(source: Source, start: int, count: int) -> bytes:
    """Read some of a file's bytes; a negative ``start`` counts from the end."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(max(0, size + start) if start < 0 else start)
        return f.read(count)


def _is_cut_off(f: soundfile.SoundFile, source: Source) -> bool:
    """Tell whether a header, or the lack of a last page, says that the end is gone."""
    if f.format == "OGG":
        tail = _bytes(source, -_OGG_PAGE, _OGG_PAGE)
        page = tail[max(tail.rfind(b"OggS"), 0) :]
        sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
        whole = len(sizes) and len(page) >= 27 + len(sizes) + sum(sizes)
        return not (whole and page[5] & 4)
    found = (map(int, pair) for pair in _SHORT.findall(f.extra_info))
    return any(there + _PADDING < said < _STREAMED for said, there in found)


def _tells_its_length(mp3: Source) -> bool:
    """Tell whether an MP3 file begins with a Xing, Info or VBRI frame.

    Without one libsndfile takes the rate of the first frame for that of all.
    """
    at, head = 0, _bytes(mp3, 0, 10)
    if head[:3] == b"ID3":
        size = 0
        for byte in head[6:10]:
            size = size * 128 + byte
        at = 10 + size
    first = _bytes(mp3, at, 4096)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def _read_to_the_end(source: Source) -> tuple[np.ndarray, int]:
    """Decode as a stream, whose length libsndfile does not guess."""
    output, given = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(given, "wb") as pipe:
            pipe.write(_bytes(source, 0, -1))

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        with soundfile.SoundFile(output, closefd=False) as f:
            blocks = [np.zeros((0, f.channels), np.float32)]
            while len(block := f.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block)
            return np.concatenate(blocks), f.samplerate
    finally:
        os.close(output)
        feeding.join()

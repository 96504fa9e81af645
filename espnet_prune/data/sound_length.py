"""See whether a sound file holds as much as it says, where libsndfile does not."""

import mmap
import os
import re
import struct
from contextlib import nullcontext
from typing import IO

import soundfile

# Where libsndfile finds fewer samples than a header says: in WAV, AIFF, AU, W64, RF64.
_SHORT = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.M
)
_SPHERE_LENGTH = re.compile(rb"^sample_count -i (\d+)", re.M)  # of each channel
_STREAMED = 0x40000000  # from here on a length says: written before it was known
_PADDING = 64  # bytes, of SPHERE samples, by which sloppy headers are off
_OGG_PAGE = 65307  # bytes, at most
_FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]")  # of a stream
_LATER_PAGE = re.compile(rb"OggS\0[\0\1\4\5]")
_CHUNK = re.compile(rb"(?!RIFF|RF64)[ -~]{4}")  # the name of a part of a WAV
_TAGS = b"LIST", b"id3 ", b"ID3", b"TAG", b"APETAGEX"  # perhaps sloppy or no chunks
_SOMETHING = re.compile(rb"[^\0]")
# A frame of MP3 that says the file's length, behind the side information.
MP3_LENGTH = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb].{11,36}(Xing|Info|VBRI).{16}", re.DOTALL
)

Source = str | IO[bytes]  # a path, or a file without a name


def opened(source: Source):
    """Open a path; a file that is open already stays so."""
    return open(source, "rb") if isinstance(source, str) else nullcontext(source)


def _mapped(source: Source) -> mmap.mmap:
    with opened(source) as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


def _bytes(source: Source, start: int, count: int) -> bytes:
    """Read some of a file's bytes; a negative ``start`` counts from the end."""
    with opened(source) as f:
        size = os.fstat(f.fileno()).st_size
        # Who reads the file itself goes on where it was.
        return os.pread(f.fileno(), count, max(0, size + start) if start < 0 else start)


def is_cut_off(f: soundfile.SoundFile, source: Source) -> bool:
    """Tell whether a header, or the lack of a last page, says that the end is gone."""
    if f.format == "OGG":
        tail = _bytes(source, -_OGG_PAGE, _OGG_PAGE)
        page = tail[max(tail.rfind(b"OggS"), 0) :]
        sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
        whole = len(sizes) and len(page) >= 27 + len(sizes) + sum(sizes)
        return not (whole and page[5] & 4)
    if f.format == "NIST":  # SPHERE, of which libsndfile asks the file's size alone
        said = _SPHERE_LENGTH.search(_bytes(source, 0, 1024))
        return bool(said) and len(f) + _PADDING < int(said[1])
    found = (map(int, pair) for pair in _SHORT.findall(f.extra_info))
    return any(there + _PADDING < said < _STREAMED for said, there in found)


def is_chained(ogg: Source) -> bool:
    """Tell whether a stream begins behind another: libsndfile reads the first."""
    with _mapped(ogg) as pages:
        later = _LATER_PAGE.search(pages)
        return bool(later and _FIRST_PAGE.search(pages, later.end()))


def goes_on(wav: Source) -> bool:
    """Tell whether what is behind a WAV's samples is neither chunks, tags nor zeros.

    Then a recorder stopped before it wrote the length, or files were joined.
    """
    if _bytes(wav, 0, 4) != b"RIFF":  # the rarer kinds of headers
        return False
    at = 12
    while len(head := _bytes(wav, at, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        at += 8 + size
        if name == b"data":
            # Of an odd length a byte more, which some leave out.
            return not any(_is_a_tail(wav, end) for end in {at, at + size % 2})
        at += size % 2
    return False


def _is_a_tail(wav: Source, at: int) -> bool:
    """Tell whether nothing but chunks, tags or zeros is from here to the end."""
    with _mapped(wav) as pages:
        while at + _PADDING < len(pages):
            name = pages[at : at + 8]
            if name.startswith(_TAGS):
                return True
            if not _CHUNK.match(name):
                return not _SOMETHING.search(pages, at)
            size = int.from_bytes(name[4:], "little")
            at += 8 + size
            if at > len(pages):
                return False
            at += size % 2
        return True


def behind_id3(mp3: Source) -> int:
    """Find where the tags end that an MP3 file may begin with."""
    at = 0
    while (head := _bytes(mp3, at, 10))[:3] == b"ID3":
        size = 0
        for byte in head[6:10]:
            size = size * 128 + byte
        at += 10 + size
    return at


def tells_its_length(mp3: Source) -> bool:
    """Tell whether an MP3 file says its length, and nothing but tags is behind that.

    Without one libsndfile takes the rate of the first frame for that of all. What was
    joined of several files says the length of the first.
    """
    at = behind_id3(mp3)
    first = _bytes(mp3, at, 4096)
    if (found := MP3_LENGTH.search(first)) is None:
        return False
    said = first[found.start(1) :]
    if found[1] == b"VBRI":
        size = said[10:14]
    else:  # flags, a number of frames, a size: the flags tell which there are
        size = said[12:16] if said[7] & 1 else said[8:12]
        size = size if said[7] & 2 else b""
    at += found.start() + int.from_bytes(size)
    while (behind := _bytes(mp3, at, 4096)).startswith((b"TAG", b"APETAGEX")):
        ape = 32 + int.from_bytes(behind[12:16], "little")
        at += 128 if behind.startswith(b"TAG") else ape
    return not behind.strip(b"\0")

"""Sound files: their length is what decodes, and one that is cut off is named."""

import struct

import numpy as np
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.data.audio import load_source, load_utterance, source_blocks
from espnet_prune.data.sound_file import read_blocks, seekable

SECONDS = 6
ART = b"ID3\4\0\0\0\2\0\0" + bytes(2 << 14)
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_24"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
    ("CAF", "PCM_16"),
    ("NIST", "PCM_16"),
    ("NIST", "ULAW"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def speechlike(fs):
    """A tone, noise and silence: a variable rate varies."""
    third = fs * SECONDS // 3
    tone = 0.2 * np.sin(np.arange(third) / 9)
    noise = 0.1 * np.random.default_rng(0).standard_normal(third)
    return np.concatenate([tone, noise, np.zeros(third)]).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """``written(format, subtype, **options)``: the bytes of a file of that kind."""

    def write(kind, subtype, **options):
        fs = 48000 if subtype == "OPUS" else 16000
        path = tmp_path / "written"
        soundfile.write(path, speechlike(fs), fs, subtype, format=kind, **options)
        return path.read_bytes()

    return write


@pytest.fixture
def read(tmp_path):
    """``read(content, piped=True)``: the samples and the rate of such a file."""

    def whole(content, piped=True):
        path = tmp_path / "sound"
        path.write_bytes(content)
        return load_source(f"cat {path} |" if piped else str(path))

    return whole


@pytest.mark.parametrize("piped", [True, False])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_whole_file_is_read_and_one_cut_off_is_named(
    written, read, tmp_path, kind, subtype, piped
):
    whole = written(kind, subtype)
    samples, fs = read(whole, piped)
    assert len(samples) == fs * SECONDS
    with soundfile.SoundFile(tmp_path / "sound") as f:
        expected = f.read(dtype="float32", always_2d=True)
    np.testing.assert_array_equal(samples, expected)  # in one go, not in blocks
    told = "^(cat )?/.*/sound( .)?: (ends before|cannot be read)"
    for share in (0.3, 0.6, 0.9, 0.98):
        with pytest.raises(InputError, match=told):
            read(whole[: int(len(whole) * share)], piped)


def test_segment_of_an_mp3_is_the_same_as_in_the_whole(written, read, tmp_path):
    """Its frames want those before them, which libsndfile does not decode again."""
    whole, fs = read(written("MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE"), False)
    for start in (0.5, 2.5, 3.9):
        blocks = [b for b, _ in source_blocks(str(tmp_path / "sound"), start)]
        expected = whole[round(start * fs) :]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("tag", [b"", ART])
def test_mp3_without_a_header_is_read_to_its_end(written, tmp_path, mode, tag):
    """The first frame's rate, by which libsndfile guesses, is that of a tone."""
    options = {"bitrate_mode": mode, "compression_level": 0.5}
    whole = written("MP3", "MPEG_LAYER_III", **options)
    second = whole.index(whole[:2], 4)  # the first frame holds no sound
    path = tmp_path / "stream.mp3"
    path.write_bytes(tag + whole[second:])
    for value in (str(path), f"cat {path} |"):
        samples, fs = load_source(value)
        assert 0 <= len(samples) - fs * SECONDS < 0.2 * fs
        part = np.concatenate([b for b, _ in source_blocks(value, 2.5, 3.0)])
        np.testing.assert_array_equal(part, samples[int(2.5 * fs) : 3 * fs])
    with pytest.raises(InputError, match=r"^\S+mp3: lasts 6.* from 5.0 s to 9.0 s"):
        list(source_blocks(str(path), 5.0, 9.0))


ID3V1 = b"TAG" + bytes(125)


def ape(size):
    """A tag of APE, with ``size`` bytes between its header and its footer."""
    both = [
        b"APETAGEX" + struct.pack("<IIIIq", 2000, size + 32, 1, flags, 0)
        for flags in (0xA0000000, 0x80000000)
    ]
    return both[0] + bytes(size) + both[1]


def with_vbri(mp3):
    """An MP3 whose first frame says its length as Fraunhofer's encoder does."""
    size = mp3.index(mp3[:2], 4)
    frames = (len(mp3) - size) // size  # of a constant rate
    said = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, len(mp3), frames, 0, 1, 2, 1)
    return mp3[:4] + bytes(32) + said.ljust(size - 36, b"\0") + mp3[size:]


@pytest.mark.parametrize("before", [b"", ART, ART + ART])
@pytest.mark.parametrize("behind", [ID3V1, ape(30000) + ID3V1, bytes(9999)])
def test_tags_of_an_mp3_are_no_audio(written, read, before, behind):
    """A stream would begin with what the encoder put before the first sample."""
    mp3 = written("MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    expected, fs = read(mp3, False)
    assert len(expected) == fs * SECONDS
    np.testing.assert_array_equal(read(before + mp3 + behind)[0], expected)


def at(samples, part):
    """Where a part begins among the samples."""
    found = np.correlate(samples[:, 0], part[:, 0], "valid").argmax()
    np.testing.assert_allclose(samples[found : found + len(part)], part, atol=1e-4)
    return found


@pytest.mark.parametrize("piped", [True, False])
@pytest.mark.parametrize("between", [b"", ID3V1 + ART, ape(30000)])
@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT", "VBRI"])
def test_joined_mp3_is_read_to_its_end(written, read, tmp_path, mode, between, piped):
    options = {"bitrate_mode": mode.replace("VBRI", "CONSTANT")}
    one = written("MP3", "MPEG_LAYER_III", **options)
    expected, fs = read(one)
    noise = expected[int(2.5 * fs) : int(3.5 * fs)]
    first = with_vbri(one) if mode == "VBRI" else one
    samples, _ = read(ART + first + between + one + ID3V1, piped)
    assert 0 <= len(samples) - 2 * fs * SECONDS < 0.3 * fs
    before = 576 + 1105  # the frame of the length, and the delay of such a codec
    assert at(samples[: fs * SECONDS], noise) == 2.5 * fs + before
    assert 0 <= at(samples[fs * SECONDS :], noise) - 2.5 * fs - 2 * before < 1152
    path = tmp_path / "sound"
    value = f"cat {path} |" if piped else str(path)
    part = np.concatenate([b for b, _ in source_blocks(value, 7.5, 9.0)])
    np.testing.assert_array_equal(part, samples[int(7.5 * fs) : 9 * fs])


@pytest.mark.parametrize("fs, channels", [(44100, 1), (16000, 2)])
def test_joined_mp3_of_two_kinds_is_refused(written, read, tmp_path, fs, channels):
    one = written("MP3", "MPEG_LAYER_III")
    soundfile.write(tmp_path / "b.mp3", np.zeros((fs, channels)), fs)
    other = (tmp_path / "b.mp3").read_bytes()
    for content in (one + other, other + one):
        for piped in (True, False):
            with pytest.raises(InputError, match="its channels on the way -> write it"):
                read(content, piped)
    list(source_blocks(str(tmp_path / "sound"), 0.5, 0.9))  # before it changes
    with pytest.raises(InputError, match="its channels on the way -> write it"):
        list(source_blocks(str(tmp_path / "sound"), 6.5, 6.9))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("copies", [True, False])  # their streams have one number
def test_ogg_streams_in_a_row_are_refused(written, read, tmp_path, subtype, copies):
    one = written("OGG", subtype)
    expected, fs = read(one)
    content = one + (one if copies else written("OGG", subtype))
    told = "several Ogg streams in a row, and the first alone is read -> write it anew"
    for piped in (True, False):
        with pytest.raises(InputError, match=told):
            read(content, piped)
    path = str(tmp_path / "sound")
    with pytest.raises(InputError, match=told):
        list(source_blocks(path, 7.5, 8.0))
    part = np.concatenate([b for b, _ in source_blocks(path, 0.0, SECONDS)])
    np.testing.assert_array_equal(part, expected)


def streamed(flac):
    """A FLAC as encoders write it to a pipe: the number of its samples is 0."""
    said = int.from_bytes(flac[18:26])
    return flac[:18] + (said >> 36 << 36).to_bytes(8) + flac[26:]


@pytest.mark.parametrize("piped", [True, False])
def test_streamed_flac_is_read_to_its_end(written, read, tmp_path, piped):
    flac = written("FLAC", "PCM_16")
    expected, fs = read(flac)
    samples, _ = read(streamed(flac), piped)
    np.testing.assert_array_equal(samples, expected)
    path = str(tmp_path / "sound")
    for source in (path, seekable(path)):  # whose own length is told
        for start, end in ((4.5, 5.5), (4.5, None), (5.9, 6.4)):
            blocks = [b for b, _ in read_blocks(source, path, start, end)]
            stop = None if end is None else round(end * fs)
            part = expected[round(start * fs) : stop]
            np.testing.assert_array_equal(np.concatenate(blocks), part)
        with pytest.raises(InputError, match="lasts 6.00 s, but a segment goes from 5"):
            list(read_blocks(source, path, 5.0, 7.0))
    assert seekable(path) != path
    for share in (0.3, 0.9, 0.999):
        with pytest.raises(InputError, match="sound( .)?: cannot be read as audio"):
            read(streamed(flac)[: int(len(flac) * share)], piped)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF024, 0x7FFFFFFF])
def test_streamed_wav_that_does_not_know_its_length_is_whole(written, read, length):
    content = bytearray(written("WAV", "PCM_16"))
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", length)
    content[4:8] = struct.pack("<I", length)
    assert len(read(content)[0]) == 16000 * SECONDS


def test_wav_with_something_behind_its_samples_is_whole(written, read):
    content = written("WAV", "PCM_16") + b"LIST\4\0\0\0abcd"
    assert len(read(content)[0]) == 16000 * SECONDS


def with_length(wav, size):
    """A WAV whose header says so many bytes of samples."""
    at = wav.index(b"data") + 4
    said = wav[:4] + struct.pack("<I", at - 4 + size) + wav[8:at]
    return said + struct.pack("<I", size) + wav[at + 4 :]


@pytest.mark.parametrize("piped", [True, False])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_wav_that_holds_more_than_it_says_is_named(written, read, kind, piped):
    """As a recorder leaves it that stopped before it wrote the length."""
    whole = written(kind, "PCM_16")
    for size, seconds in ((32000, 1), (0, 0)):
        told = f"holds more than the {seconds}.00 s that it says -> write it anew"
        with pytest.raises(InputError, match=told):
            read(with_length(whole, size), piped)
    short = with_length(whole, 32000)[: whole.index(b"data") + 8 + 32000]
    assert len(read(short, piped)[0]) == 16000
    other = with_length(short + short, 32000)
    with pytest.raises(InputError, match="RIFF|holds more than the 1.00 s"):
        read(other, piped)
    with pytest.raises(InputError, match="holds no audio samples"):
        read(with_length(whole, 0)[: whole.index(b"data") + 8], piped)


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST\4\0\0\0abcd" * 9,
        b"iXML\x63\0\0\0" + bytes(range(100)) + b"_PMX\4\0\0\0abcd",
        ID3V1,
        ART,
        bytes(4096),
        b"some bytes",
    ],
)
def test_wav_with_chunks_or_tags_behind_its_samples_is_whole(written, read, behind):
    for subtype, odd in (("PCM_16", b""), ("PCM_U8", b"\x80")):
        wav = written("WAV", subtype)
        wav = with_length(wav + odd, len(wav + odd) - wav.index(b"data") - 8)
        for pad in {b"", bytes(len(odd))}:
            assert len(read(wav + pad + behind)[0]) == 16000 * SECONDS + len(odd)


def test_wav_of_a_sloppy_header_is_whole(written, read):
    """Where only the length of the samples is right."""
    content = bytearray(written("WAV", "PCM_16"))
    content[4:8] = struct.pack("<I", len(content) + 1000)  # of the file
    rate = content.index(b"fmt ") + 16
    content[rate : rate + 4] = struct.pack("<I", 176400)  # bytes of a second
    cut_behind = bytes(content) + b"LIST\xff\0\0\0abcd"
    assert len(read(cut_behind)[0]) == 16000 * SECONDS


def test_stereo_of_sphere_is_counted_by_channel(tmp_path, read):
    path = tmp_path / "a.sph"
    soundfile.write(path, np.zeros((16000, 2)), 16000, "PCM_16", format="NIST")
    whole = path.read_bytes()
    assert read(whole)[0].shape == (16000, 2)
    with pytest.raises(InputError, match="ends before its length says"):
        read(whole[:-400])
    assert read(whole[:-4])[0].shape == (15999, 2)  # as sloppy as headers are
    unsaid = whole.replace(b"sample_count -i 16000", b"a_comment -s 1 x     ")
    assert read(unsaid)[0].shape == (16000, 2)


def write_floats(path, samples):
    soundfile.write(path, np.asarray(samples, np.float32), 16000, subtype="FLOAT")
    return str(path)


def test_sixteen_bits_in_a_float_file_are_refused(tmp_path):
    path = write_floats(tmp_path / "a.wav", 6000 * np.sin(np.arange(16000) / 5))
    with pytest.raises(
        InputError, match=r"a.wav: holds samples of up to 6000, .*32768"
    ):
        load_utterance(path, 16000)


def test_what_would_clip_is_scaled_and_an_instant_is_not(tmp_path):
    tone = 1.5 * np.sin(np.arange(16000) / 5)
    loud = load_utterance(write_floats(tmp_path / "loud.wav", tone), 16000)
    assert loud.scaled and abs(loud.samples).max() == pytest.approx(1)
    np.testing.assert_allclose(loud.samples, tone / abs(tone).max(), atol=1e-6)
    click = np.full(16000, 0.1)
    click[:10] = 1.2
    quiet = load_utterance(write_floats(tmp_path / "click.wav", click), 16000)
    assert not quiet.scaled and quiet.samples[20] == pytest.approx(0.1)

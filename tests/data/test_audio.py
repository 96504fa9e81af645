"""Loading one utterance from everything that wav.scp may name."""

import tracemalloc

import kaldiio
import numpy as np
import pytest
import soundfile
import soxr

from espnet_prune.base.errors import InputError
from espnet_prune.data import audio as audio_module
from espnet_prune.data.audio import load_source, load_utterance
from espnet_prune.data.formatting import Job, format_utterance
from espnet_prune.data.kaldi_dir import Segment
from espnet_prune.data.sound_file import BLOCK


def _peak_hertz(samples: np.ndarray, fs: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * fs / len(samples))


def test_8_khz_is_resampled(tmp_path, tone):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 8000), 8000)
    audio = load_utterance(str(tmp_path / "a.wav"), 16000)
    assert (len(audio.samples), audio.source_fs) == (16000, 8000)
    assert audio.samples.dtype == np.float32
    assert _peak_hertz(audio.samples, 16000) == pytest.approx(440, abs=1)


def test_stereo_is_averaged(tmp_path, tone):
    left = tone(0.5, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], 1), 16000)
    audio = load_utterance(str(tmp_path / "a.wav"), 16000)
    assert audio.channels == 2 and audio.samples.shape == (8000,)
    np.testing.assert_allclose(audio.samples, left / 2, atol=1e-4)


def test_channels_that_cancel_each_other_are_refused(tmp_path, tone):
    """As of balanced lines, or a recorder that is wired wrongly."""
    left = tone(0.5, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, -left], 1), 16000)
    with pytest.raises(InputError, match="its 2 channels cancel .* -> pick one by"):
        load_utterance(str(tmp_path / "a.wav"), 16000)
    soundfile.write(tmp_path / "b.wav", np.zeros((800, 2)), 16000)
    assert not load_utterance(str(tmp_path / "b.wav"), 16000).samples.any()


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_duration_and_pitch(tmp_path, speed, tone):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16000), 16000)
    samples = load_utterance(str(tmp_path / "a.wav"), 16000, speed=speed).samples
    assert len(samples) == pytest.approx(16000 / speed, abs=2)
    assert _peak_hertz(samples, 16000) == pytest.approx(440 * speed, abs=2)


@pytest.mark.parametrize("short", [0, 1 << 22])  # samples that are kept
@pytest.mark.parametrize("fs, speed", [(44100, 0.9), (8000, 1.0), (16000, 1.0)])
@pytest.mark.parametrize("frames", [99, BLOCK, 2 * BLOCK + 1])
def test_blocks_give_what_the_whole_would(
    tmp_path, monkeypatch, short, fs, speed, frames
):
    monkeypatch.setattr(audio_module, "_SHORT", short)
    noise = np.random.default_rng(0).standard_normal((frames, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, fs, subtype="FLOAT")
    mono = noise.mean(axis=1, dtype=np.float32)
    expected = soxr.resample(mono / abs(mono).max(), fs * speed, 16000)
    for value in (str(tmp_path / "a.wav"), f"cat {tmp_path / 'a.wav'} |"):
        audio = load_utterance(value, 16000, speed=speed)
        assert audio.scaled
        for _ in range(2):  # they can be had again
            np.testing.assert_array_equal(audio.samples, expected)


@pytest.mark.parametrize("piped", [True, False])
def test_memory_does_not_grow_with_the_length(tmp_path, piped):
    path, out = tmp_path / "a.wav", str(tmp_path / "out.flac")
    value, peaks = f"cat {path} |" if piped else str(path), []
    for seconds in (150, 300):
        soundfile.write(path, np.zeros((44100 * seconds, 2), np.int16), 44100)
        tracemalloc.start()
        job = Job("a", value, Segment("a", 0.0, None), 1.0, 16000, out)
        assert format_utterance(job).samples == 16000 * seconds
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_segment_is_cut(tmp_path, tone):
    samples = np.concatenate([np.zeros(8000), tone(0.5, 16000), np.zeros(8000)])
    soundfile.write(tmp_path / "a.flac", samples, 16000)
    path = str(tmp_path / "a.flac")
    cut = load_utterance(path, 16000, 0.5, 1.0).samples
    np.testing.assert_allclose(cut, tone(0.5, 16000), atol=1e-4)
    assert len(load_utterance(path, 16000, 0.5).samples) == 16000
    # As Kaldi does, an end a little behind the recording's is forgiven.
    assert len(load_utterance(path, 16000, 1.0, 1.9).samples) == 8000
    for start, end in ((1.5, None), (0.0, 2.1)):
        with pytest.raises(InputError, match="lasts 1.50 s, but a segment"):
            load_utterance(path, 16000, start, end)


def test_pipe_and_archive_give_the_same(tmp_path, tone):
    path, ark = tmp_path / "a.wav", tmp_path / "a.ark"
    soundfile.write(path, tone(0.2, 16000), 16000)
    samples, _ = soundfile.read(path, dtype="int16")
    kaldiio.save_ark(str(ark), {"a": (16000, samples)}, scp=str(tmp_path / "a.scp"))
    value = (tmp_path / "a.scp").read_text().split()[1]
    expected = load_source(str(path))[0]
    for other in (f"cat {path} |", value):
        loaded, fs = load_source(other)
        assert fs == 16000
        np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as audio"),
        (b"this is no audio", "cannot be read as audio"),
        (b"fLaC" + bytes(200), "cannot be read as audio"),
    ],
)
def test_corrupt_file_is_named(tmp_path, content, message):
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(InputError, match=message) as e:
        load_source(str(tmp_path / "a.flac"))
    assert str(e.value).startswith(str(tmp_path / "a.flac"))


def test_truncated_flac_is_an_error(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="a.flac"):
        load_source(str(path))


def test_no_samples_and_not_finite_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    with pytest.raises(InputError, match="holds no audio samples"):
        load_source(str(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "b.wav", [0.0, np.nan], 16000, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        load_source(str(tmp_path / "b.wav"))


def test_bad_pipe_and_bad_archive(tmp_path):
    with pytest.raises(InputError, match="ended with status 3 .oh."):
        load_source("echo oh >&2; exit 3 |")
    (tmp_path / "a.ark").write_bytes(b"a nothing")
    with pytest.raises(InputError, match="Kaldi archive"):
        load_source(f"{tmp_path / 'a.ark'}:2")
    kaldiio.save_ark(str(tmp_path / "f.ark"), {"a": np.zeros((3, 2), np.float32)})
    with pytest.raises(InputError, match="holds features"):
        load_source(f"{tmp_path / 'f.ark'}:2")

"""Audio of any kind becomes crops."""

import os
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.cli import ssl_audio
from espnet_prune.data import audio as audio_module


def test_audio_of_any_kind_becomes_crops(audio, crops, caplog):
    lengths = read_table(crops / "train/utt2num_samples")
    lengths |= read_table(crops / "valid/utt2num_samples")
    assert all(8000 <= int(n) <= 24000 for n in lengths.values())
    assert sum(map(int, lengths.values())) == 16000 * sum(1 + i % 3 for i in range(24))
    first = next(iter(read_table(crops / "train/wav.scp").values()))
    info = soundfile.info(first)
    assert info.samplerate == 16000 and info.channels == 1
    with caplog.at_level("INFO"):
        ssl_audio.main(["--audio", str(audio), "--out", str(crops), "--seconds", "1"])
    assert "made before" in caplog.text


def test_recordings_of_the_same_last_name_are_kept_apart(tmp_path):
    scp = {}
    for i in range(4):
        file = tmp_path / f"s{i % 2}" / f"{i // 2}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(
            file, 0.1 * np.random.default_rng(i).standard_normal(9000), 16000
        )
        scp[f"sp0.9-{i}"] = str(file)
    (tmp_path / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in scp.items()))
    for name in ("wav.scp", "s0", "s1"):
        out = tmp_path / f"out_{name}"
        ssl_audio.main(["--audio", str(tmp_path / name), "--out", str(out)])
        lengths = read_table(out / "train/utt2num_samples")
        lengths |= read_table(out / "valid/utt2num_samples")
        assert len(lengths) == (4 if name == "wav.scp" else 2)
    soundfile.write(tmp_path / "s0/0.flac", np.ones(9000), 16000)
    with pytest.raises(InputError, match="both would be called so"):
        ssl_audio.main(["--audio", str(tmp_path / "s0"), "--out", str(tmp_path / "x")])


def noise(file, seconds, seed=0):
    draw = np.random.default_rng(seed)
    soundfile.write(file, 0.1 * draw.standard_normal(int(16000 * seconds)), 16000)


def made(folder, tmp_path, *options):
    out = tmp_path / "out"
    ssl_audio.main(["--audio", str(folder), "--out", str(out), *options])
    tables = (read_table(out / part / "wav.scp") for part in ("train", "valid"))
    return [[*table] for table in tables]


def test_one_recording_is_cut_and_crops_of_it_are_held_out(tmp_path):
    (tmp_path / "in").mkdir()
    noise(tmp_path / "in/a.wav", 30)
    train, valid = made(tmp_path / "in", tmp_path)
    assert len(valid) == 1 and len(train) == 7 and not {*train} & {*valid}


def test_other_audio_of_the_same_size_and_date_is_cut_anew(tmp_path, caplog):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(2):
        noise(folder / f"{i}.wav", 3, i)

    def run(again, source=folder):
        caplog.clear()
        with caplog.at_level("INFO"):
            made(source, tmp_path)
        assert ("made before" in caplog.text) != again
        return (out / "audio.sha256").read_text()

    first = run(True)
    assert run(False) == first
    dates = (folder / "1.wav").stat()
    noise(folder / "1.wav", 3, 9)
    os.utime(folder / "1.wav", ns=(dates.st_atime_ns, dates.st_mtime_ns))
    second = run(True)
    assert second != first and run(False) == second
    # What a command gives cannot be seen; trainings go on if it was the same.
    scp = tmp_path / "wav.scp"
    scp.write_text(f"0 {folder}/0.wav\n1 cat {folder}/1.wav |\n")
    seen = [run(True, scp) for _ in range(2)]
    assert seen == [second, second] and "commands give audio: it is made" in caplog.text
    noise(folder / "1.wav", 3, 1)
    assert run(True, scp) == first


@pytest.mark.parametrize("fs, channels", [(44100, 2), (16000, 1), (8000, 2)])
@pytest.mark.parametrize("short", [0, 1 << 22])  # samples that are kept
def test_crops_are_those_of_the_whole_at_once(
    tmp_path, monkeypatch, fs, channels, short
):
    monkeypatch.setattr(audio_module, "_SHORT", short)
    wave = 0.1 * np.random.default_rng(0).standard_normal((19 * fs // 2 + 3, channels))
    soundfile.write(tmp_path / "a.wav", wave, fs, subtype="FLOAT")
    mono = wave.astype(np.float32).mean(axis=1, dtype=np.float32)
    whole = soxr.resample(mono, fs, 16000)
    found, *_ = ssl_audio.crop(("a", str(tmp_path / "a.wav"), tmp_path, 2.0, False))
    expected = np.array_split(whole, 5)
    assert [*found.values()] == [len(part) for part in expected]
    for key, part in zip(found, expected, strict=True):
        soundfile.write(tmp_path / "b.flac", part, 16000, subtype="PCM_16")
        crop = (tmp_path / f"{key}.flac").read_bytes()
        assert crop == (tmp_path / "b.flac").read_bytes()


def test_memory_of_a_cut_does_not_grow_with_the_length(tmp_path):
    path, peaks = tmp_path / "a.wav", []
    for seconds in (120, 240):
        soundfile.write(path, np.full((44100 * seconds, 2), 999, np.int16), 44100)
        tracemalloc.start()
        found, *_ = ssl_audio.crop(("a", str(path), tmp_path, 4.0, False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) == seconds / 4
    assert peaks[1] < 1.1 * peaks[0]


def test_what_cannot_be_read_takes_no_place_among_what_is_held_out(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").write_bytes(b"RIFF")
    for i in range(3):
        noise(tmp_path / f"in/b{i}.wav", 2, i)
    train, valid = made(tmp_path / "in", tmp_path)
    assert valid == ["b0-0000"] and train == ["b1-0000", "b2-0000"]
    (told,) = (r.message for r in caplog.records if "left out" in r.message)
    assert "left out 1 recordings" in told and "format_args" not in told


def test_too_little_audio_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    noise(tmp_path / "in/a.wav", 3)
    with pytest.raises(InputError, match="gives 1 crops -> give more audio"):
        made(tmp_path / "in", tmp_path)
    (tmp_path / "in/a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"gives 0 crops \(.*a.wav"):
        made(tmp_path / "in", tmp_path)


def test_a_recording_in_place_of_a_table_is_named(tmp_path):
    noise(tmp_path / "a.wav", 3)
    with pytest.raises(InputError, match="a.wav: is one recording -> give its folder"):
        made(tmp_path / "a.wav", tmp_path)

"""Stage 1: ``commands``, strings of Speech Commands."""

import tarfile

import commands_data
import numpy as np
import pytest
import soundfile
from commands_data import WORDS

from espnet_prune.base.errors import InputError
from espnet_prune.data.kaldi_dir import read_data_dir

SETS = ("train", "dev", "test")


@pytest.fixture
def published(tmp_path, tone):
    """Files as they were published: twenty speakers, two words, and others."""
    folder = tmp_path / "downloads" / commands_data.NAME
    for number in range(20):
        speaker = f"{number:08x}"
        for name in (
            f"yes/{speaker}_nohash_0",
            f"no/{speaker}_nohash_1",
            f"_unknown_/bed_{speaker}_nohash_0",
            f"_unknown_/{speaker}_nohash_0",
            f"_silence_/{speaker}_nohash_0",
        ):
            path = folder / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(0.05 + 0.001 * number, 16000), 16000)
    return tmp_path / "downloads"


def test_no_speaker_is_in_two_sets(cli, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("commands_data", "--downloads", published, "--repeat_test", 1)
    found = {name: read_data_dir(f"data/commands_{name}") for name in SETS}
    speakers = {name: set(data.speakers.values()) for name, data in found.items()}
    assert {name: len(own) for name, own in speakers.items()} == {
        "train": 16, "dev": 2, "test": 2,
    }  # fmt: skip
    assert len(set.union(*speakers.values())) == 20
    words = " ".join(found["test"].text.values()).split()
    # A single recording left over is not spoken; what names no word never.
    assert set(words) == {"YES", "NO"} and len(words) == 4


def test_commands_of_the_corpus_here(cli, corpora, tmp_path):
    if not (corpora / commands_data.NAME).is_dir():
        pytest.skip(f"no {commands_data.NAME} in {corpora}")
    repeat = [f"--repeat_{name}=1" for name in SETS]
    cli("commands_data", "--downloads", corpora, "--out", tmp_path, *repeat)
    sizes = {}
    for name in SETS:
        data = read_data_dir(tmp_path / f"commands_{name}")
        words = [word for text in data.text.values() for word in text.split()]
        speakers = set(data.speakers.values())
        sizes[name] = len(words), len(speakers)
        assert all(2 <= len(text.split()) <= 6 for text in data.text.values())
    # Of each speaker at most one recording is left over; of some it is the only one.
    for name, (full, speakers, heard) in {
        "train": (3200, 191, 181), "dev": (444, 24, 23), "test": (430, 24, 24),
    }.items():  # fmt: skip
        assert full - speakers <= sizes[name][0] <= full
        assert sizes[name][1] == heard


def test_commands_from_an_archive(cli, published, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / commands_data.ARCHIVE, "w:gz") as tar:
        tar.add(published / commands_data.NAME, ".")
    cli("commands_data", "--downloads", other, "--out", tmp_path / "data")
    assert (other / commands_data.NAME / "yes/00000000_nohash_0.wav").exists()


def test_too_few_speakers_are_refused(cli, published, tmp_path):
    folder = published / commands_data.NAME
    for path in folder.glob("*/*0000013_nohash_*.wav"):
        path.unlink()
    with pytest.raises(InputError, match="words of 19 speakers .* as they were"):
        cli("commands_data", "--downloads", published, "--out", tmp_path / "d")


def test_kaldi_directories_keep_their_split(cli, make_dir, tone, tmp_path):
    for number, name in enumerate(SETS):
        audio = {f"s-{name}{i}": (tone(0.05 + i / 100, 16000), 16000) for i in range(2)}
        folder = make_dir(name, audio)
        (folder / "text").write_text(
            "".join(f"s-{name}{i} {WORDS[number]}\n" for i in (0, 1))
        )
        where = tmp_path / commands_data.NAME / name
        where.parent.mkdir(exist_ok=True)
        folder.rename(where)
    cli("commands_data", "--downloads", tmp_path, "--out", tmp_path / "d")
    for number, name in enumerate(SETS):
        text = read_data_dir(tmp_path / f"d/commands_{name}").text
        assert set(text.values()) == {f"{WORDS[number]} {WORDS[number]}"}
    own = tmp_path / commands_data.NAME / "dev/text"
    for text, said in (("s-dev0 UP\n", "text"), ("s-dev0 a\ns-dev1 b\n", "none of")):
        own.write_text(text)
        with pytest.raises(InputError, match=said):
            cli("commands_data", "--downloads", tmp_path, "--out", tmp_path / "e")


def test_words_are_cut_to_what_is_spoken(tone):
    quiet = 1e-3 * tone(0.3, 16000)
    samples = np.concatenate([quiet, tone(0.4, 16000), 0.1 * tone(0.1, 16000), quiet])
    cut = commands_data.cut_to_speech(samples, 16000)
    margin = 16000 * 6 // 100
    np.testing.assert_array_equal(cut, samples[4800 - margin : 12800 + margin])
    for whole in (tone(0.5, 16000), np.zeros(1600), np.zeros(10)):
        np.testing.assert_array_equal(commands_data.cut_to_speech(whole, 16000), whole)

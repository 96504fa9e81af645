"""Stage 1: ``commands``, strings of Speech Commands."""

import tarfile

import commands_data
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.data.kaldi_dir import read_data_dir

SETS = ("train", "dev", "test")


@pytest.fixture
def published(tmp_path, tone):
    """Files as they were published: twenty speakers, two words, a word among others."""
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
    assert set(words) == {"YES", "NO", "BED"} and 4 <= len(words) <= 6


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
    for name, (full, speakers) in {
        "train": (3518, 191), "dev": (497, 24), "test": (467, 24),
    }.items():  # fmt: skip
        assert full - speakers <= sizes[name][0] <= full
        # Of nine in the training set there is one recording alone, or one left over.
        assert sizes[name][1] == speakers - (9 if name == "train" else 0)


def test_commands_from_an_archive(cli, published, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / commands_data.ARCHIVE, "w:gz") as tar:
        tar.add(published / commands_data.NAME, ".")
    cli("commands_data", "--downloads", other, "--out", tmp_path / "data")
    file = other / commands_data.NAME / "_unknown_" / "bed_00000000_nohash_0.wav"
    assert file.exists()


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
            "".join(f"s-{name}{i} W{number}\n" for i in (0, 1))
        )
        where = tmp_path / commands_data.NAME / name
        where.parent.mkdir(exist_ok=True)
        folder.rename(where)
    cli("commands_data", "--downloads", tmp_path, "--out", tmp_path / "d")
    for number, name in enumerate(SETS):
        text = read_data_dir(tmp_path / f"d/commands_{name}").text
        assert set(text.values()) == {f"W{number} W{number}"}
    (tmp_path / commands_data.NAME / "dev/text").write_text("s-dev0 W\n")
    with pytest.raises(InputError, match="text"):
        cli("commands_data", "--downloads", tmp_path, "--out", tmp_path / "e")

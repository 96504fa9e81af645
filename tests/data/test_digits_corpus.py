"""Stage 1: ``digits``, strings of the Free Spoken Digit Dataset."""

import io
import tarfile

import digits_data
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.kaldi_dir import read_data_dir


@pytest.fixture
def fsdd(tmp_path, tone):
    """A dataset in FSDD's layout: two speakers, three digits, 12 recordings each."""
    folder = tmp_path / "downloads" / digits_data.NAME / "recordings"
    folder.mkdir(parents=True)
    for digit in (0, 4, 9):
        for speaker in ("ann", "bob"):
            for index in range(12):
                samples = tone(0.05 + 0.01 * index, 8000)
                soundfile.write(
                    folder / f"{digit}_{speaker}_{index}.wav", samples, 8000
                )
    return tmp_path / "downloads"


def test_digits_are_split_by_index(fsdd):
    split = digits_data.split_recordings(fsdd / digits_data.NAME / "recordings")
    everything = [
        w.path for speakers in split.values() for r in speakers.values() for w in r
    ]
    assert len(everything) == len(set(everything)) == 72
    dev = [word for recordings in split["dev"].values() for word in recordings]
    assert {word.path.stem[-2:] for word in dev} == {"_8", "_9"}
    assert {word.text for word in dev} == {"ZERO", "FOUR", "NINE"}


def test_digits_sets(cli, fsdd, tmp_path, monkeypatch, digests):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cli("digits_data", "--downloads", fsdd, "--repeat_train", 1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    for name in ("train", "dev", "test"):
        data = read_data_dir(f"data/digits_{name}")
        assert set(" ".join(data.text.values()).split()) == {"ZERO", "FOUR", "NINE"}
        for path in data.wav.values():
            assert soundfile.info(path).samplerate == 8000


def test_digits_of_the_real_dataset(cli, corpora, tmp_path):
    if not (corpora / digits_data.NAME).is_dir():
        pytest.skip(f"no {digits_data.NAME} in {corpora}")
    # main() itself asserts that no recording is in two sets.
    repeat = [f"--repeat_{name}=1" for name in ("train", "dev", "test")]
    cli("digits_data", "--downloads", corpora, "--out", tmp_path, *repeat)
    sizes = {}
    for name in ("train", "dev", "test"):
        text = read_table(tmp_path / f"digits_{name}" / "text")
        sizes[name] = sum(len(words.split()) for words in text.values())
    # A single recording left over in a permutation is not spoken.
    for name, full in {"train": 2400, "dev": 120, "test": 480}.items():
        assert full - 6 <= sizes[name] <= full


def test_digits_from_an_archive(cli, fsdd, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / f"{digits_data.NAME}.tar.gz", "w:gz") as tar:
        tar.add(fsdd / digits_data.NAME, f"{digits_data.NAME}-1.0.10")
    cli("digits_data", "--downloads", other, "--out", tmp_path / "data")
    assert (other / digits_data.NAME / "recordings" / "0_ann_0.wav").exists()


def test_digits_bad_downloads(cli, fsdd, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_data, "URL", (tmp_path / "none.tar.gz").as_uri())
    with pytest.raises(InputError, match="cannot be downloaded .* put the dataset's"):
        cli("digits_data", "--downloads", tmp_path / "empty", "--out", tmp_path / "d")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{digits_data.NAME}.tar.gz").write_bytes(io.BytesIO(b"x").read())
    with pytest.raises(InputError, match="cannot be unpacked"):
        cli("digits_data", "--downloads", broken, "--out", tmp_path / "d")
    recordings = fsdd / digits_data.NAME / "recordings"
    (recordings / "ten.wav").write_bytes(b"")
    with pytest.raises(InputError, match="ten.wav: is not called"):
        cli("digits_data", "--downloads", fsdd, "--out", tmp_path / "d")

"""Stage 1: the user's own Kaldi directories."""

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.data.kaldi_dir import read_data_dir


def test_kaldi_directories_are_copied_with_segments(cli, make_dir, tmp_path, caplog):
    train = make_dir("mine")
    (train / "segments").write_text("s-0 s-0 0 0.5\ns-1 s-1 0 0.5\ns-2 s-2 0 -1\n")
    options = ("--train", train, "--dev", train, "--out", tmp_path / "data")
    cli("kaldi_data", *options, "--test", train)
    copy = read_data_dir(tmp_path / "data" / "kaldi_train")
    assert copy == read_data_dir(train)
    assert (
        f"3 utterances of {train} are in {train}, too: s-0 there is s-0" in caplog.text
    )
    cli("kaldi_data", *options, "--test", train, make_dir("other"))
    assert (tmp_path / "data" / "kaldi_test_mine").is_dir()
    assert (tmp_path / "data" / "kaldi_test_other").is_dir()
    with pytest.raises(InputError, match="two are called test_mine"):
        cli("kaldi_data", *options, "--test", train, train)


def test_kaldi_copies_the_an4_of_espnets_ci(cli, corpora, tmp_path):
    mini = corpora / "mini_an4"
    roles = [x for role in ("train", "dev", "test") for x in (f"--{role}", mini)]
    cli("kaldi_data", *roles, "--out", tmp_path)
    assert len(read_data_dir(tmp_path / "kaldi_dev").text) == 7


def test_audio_of_the_training_under_other_names_is_warned_of(
    cli, make_dir, tone, tmp_path, caplog
):
    train = make_dir("mine")
    other = make_dir("other", {f"t-{i}": (tone(1.0, 16000), 16000) for i in range(3)})
    options = ("--train", train, "--dev", other, "--out", tmp_path / "data")
    cli("kaldi_data", *options, "--test", other)
    assert "utterances of" not in caplog.text
    (other / "wav.scp").write_text(
        "".join(f"t-{i} {train}/s-{2 - i}.wav\n" for i in range(3))
    )
    cli("kaldi_data", *options, "--test", other)
    assert (
        f"3 utterances of {other} are in {train}, too: t-0 there is s-2" in caplog.text
    )

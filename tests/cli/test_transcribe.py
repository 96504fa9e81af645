"""Transcripts that a data directory lacks, written by the dense model."""

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table, write_table
from espnet_prune.cli import transcribe
from espnet_prune.data.kaldi_dir import read_data_dir


@pytest.fixture
def untold(data_dir, tmp_path):
    """A data directory of which four utterances have no transcript."""
    folder = tmp_path / "untold"
    folder.mkdir()
    audio, text = (read_table(data_dir / name) for name in ("wav.scp", "text"))
    keys = list(audio)[:6]
    write_table(folder / "wav.scp", {key: audio[key] for key in keys})
    write_table(folder / "utt2spk", {key: key for key in keys})
    write_table(folder / "text", {key: text[key] for key in keys[:2]})
    return folder


@pytest.fixture
def run(dense, tmp_path):
    """``run(data)``: transcribe into ``told``, by a model that is not silent."""
    weights = torch.load(dense / "model.pth")
    weights["ctc.ctc_lo.bias"][0] -= 5
    torch.save(weights, tmp_path / "model.pth")
    search = tmp_path / "greedy.yaml"
    search.write_text("ctc_greedy: true\n")

    def main(data):
        out = tmp_path / "told"
        paths = {"data": data, "config": dense / "config.yaml", "out": out}
        paths |= {"model": tmp_path / "model.pth", "inference_config": search}
        words = [str(w) for n, path in paths.items() for w in (f"--{n}", path)]
        transcribe.main([*words, "--nj", "1"])
        return out

    return main


def test_those_without_words_get_the_model_s_and_the_others_keep_theirs(untold, run):
    given = read_table(untold / "text")
    out = run(untold)
    told = read_data_dir(out)
    assert list(told.text) == list(read_table(untold / "wav.scp"))
    assert all(told.text.values()) and given.items() <= told.text.items()
    # Any recipe reads it as its own, from wherever it is started.
    assert told.wav == read_table(untold / "wav.scp")
    assert not list(out.parent.glob("told_*"))


def test_a_directory_without_any_text_will_do(untold, run):
    (untold / "text").unlink()
    assert all(read_data_dir(run(untold)).text.values())


def test_what_is_read_is_not_written_over(untold, dense):
    same = ["--data", str(untold), "--out", str(untold), "--model", "m"]
    with pytest.raises(InputError, match="is the directory to read"):
        transcribe.main([*same, "--config", str(dense / "config.yaml")])
    assert len(read_table(untold / "text")) == 2

"""Hypotheses are kept as long as what they were made of is the same."""

import argparse
import shutil
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.cli import decode

CODE = "from espnet_prune.base.files import code_version; print(code_version())"


@pytest.fixture
def audio(tmp_path):
    """A set of two utterances, ``a`` and ``b``, in files of their own."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", np.zeros(1600), 16000)
    return write(folder, {name: folder / f"{name}.wav" for name in "ab"})


def write(folder, sources):
    lines = [f"{name} {value}\n" for name, value in sources.items()]
    (folder / "wav.scp").write_text("".join(lines))
    return folder


@pytest.fixture
def decodes(audio, dense, tmp_path, monkeypatch):
    """``decodes(**files)``: whether ESPnet is started; files as of the command line."""
    started = []

    def shards(commands, *_, **__):
        started.append(commands)
        for command in commands:
            folder = command[command.index("--output_dir") + 1]
            out = decode.Path(folder, "1best_recog")
            out.mkdir(parents=True)
            for table in decode.TABLES:
                (out / table).write_text("a A\nb B\n")

    (tmp_path / "decode.yaml").write_text("beam_size: 1\n")
    monkeypatch.setattr(decode, "run_shards", shards)

    def run(**files):
        files = {
            "config": dense / "config.yaml",
            "model": dense / "model.pth",
            "data": audio,
            "inference_config": tmp_path / "decode.yaml",
            "out": tmp_path / "out",
            "nj": 1,
        } | files
        options = [str(x) for name, value in files.items() for x in (name, value)]
        options[::2] = [f"--{name}" for name in options[::2]]
        monkeypatch.setattr(sys, "argv", ["decode", *options])
        started.clear()
        decode.main()
        return bool(started)

    assert run()
    assert not run() and not run(nj=2)
    return run


def test_other_audio_of_the_same_name_and_length_is_decoded(audio, decodes):
    soundfile.write(audio / "b.wav", np.full(1600, 0.5), 16000)
    assert decodes() and not decodes()
    # Only what it holds counts.
    shutil.copy(audio / "b.wav", audio / "c.wav")
    (audio / "c.wav").replace(audio / "b.wav")
    assert not decodes()


def test_audio_in_an_archive_is_seen(audio, decodes, tmp_path):
    def archive(level):
        samples = {name: (16000, np.full(1600, level, np.int16)) for name in "ab"}
        ark, scp = tmp_path / "audio.ark", audio / "wav.scp"
        kaldiio.save_ark(str(ark), samples, scp=str(scp))

    (audio / "audio_format").write_text("wav.ark\n")
    archive(0)
    assert decodes() and not decodes()
    before = (audio / "wav.scp").read_bytes()
    archive(9)
    assert (audio / "wav.scp").read_bytes() == before
    assert decodes() and not decodes()


def test_audio_from_a_command_is_never_the_same(audio, decodes, caplog):
    write(audio, {name: f"cat {audio}/{name}.wav |" for name in "ab"})
    with caplog.at_level("INFO"):
        assert decodes() and decodes()
    assert "wav.scp: commands give audio" in caplog.text


def test_audio_that_is_gone_is_named(audio, decodes):
    (audio / "b.wav").unlink()
    with pytest.raises(InputError, match=r"wav.scp: .*b.wav cannot be read"):
        decodes()


def test_another_model_is_decoded(dense, decodes, tmp_path):
    weights = torch.load(dense / "model.pth")
    torch.save({k: v + 1 for k, v in weights.items()}, tmp_path / "model.pth")
    other = {"model": tmp_path / "model.pth"}
    assert decodes(**other) and not decodes(**other)
    config = yaml.safe_load((dense / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"seed": 77}))
    other["config"] = tmp_path / "config.yaml"
    assert decodes(**other) and not decodes(**other)


def test_weights_that_hold_more_are_refused_before_espnet_runs_them(decodes, tmp_path):
    torch.save({"more": argparse.Namespace()}, tmp_path / "found.pth")
    with pytest.raises(InputError, match="found.pth: holds more than tensors"):
        decodes(model=tmp_path / "found.pth")


def test_other_code_decodes_anew(decodes, monkeypatch):
    monkeypatch.setattr(decode, "code_version", lambda: "another")
    assert decodes() and not decodes()


def test_code_is_told_by_its_version_and_its_sources(python, tmp_path):
    package = decode.Path(espnet_prune.__file__).parent
    shutil.copytree(package, tmp_path / "espnet_prune")

    def version():
        result = python("-P", "-c", CODE, path=str(tmp_path))
        assert result.returncode == 0, result.stderr
        return result.stdout

    first = version()
    assert version() == first and espnet_prune.__version__ in first
    deep = tmp_path / "espnet_prune/serving/fast/linear.py"
    deep.write_text(deep.read_text() + "\n")
    assert version() != first

"""Pre-training of the small HuBERT: killed and resumed, and what it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pretrain_audio import FS, Crops, count_frames, read_streams
from pretrain_hubert import Run
from pretrain_model import make_config, make_model
from pretrain_targets import MELS, LogMel, layer_features, mfcc_features
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, HubertModel

from espnet_prune.base.errors import InputError

SIZE = "--width 32 --layers 2 --heads 2 --clusters 8 --seconds_per_step 2".split()
OPTIONS = [*SIZE, *"--crop_seconds 1 --save_every 1 --test_every 2 --steps 3".split()]


@pytest.fixture
def audio(tmp_path) -> Path:
    """A folder of five files: chirps in noise, of two rates, one of them in stereo."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        fs = (16000, 8000)[number % 2]
        time = np.arange(int(fs * (0.4 + 0.3 * number))) / fs
        samples = 0.1 * np.sin(2000 * (1 + number) * time**2)
        samples = samples + 0.01 * rng.standard_normal(len(time))
        if number == 4:
            samples = np.stack([samples, samples], axis=1)
        soundfile.write(folder / f"{number}.{('wav', 'flac')[number % 2]}", samples, fs)
    return folder


@pytest.fixture
def train(cli, audio, tmp_path):
    """``train(name, *more)`` trains on the folder; returns the new directory."""

    def run(name: str, *more: str) -> Path:
        out = tmp_path / name
        data = ["--audio", audio, "--held_out", audio, "--out", out]
        cli("pretrain_hubert", *data, *OPTIONS, *more)
        return out

    return run


def test_killed_and_resumed_is_as_never_killed(train, tmp_path, monkeypatch):
    whole = train("whole")
    advance = Run.advance

    def killed(run):
        if run.step == 2:
            raise KeyboardInterrupt
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train("parts")
    assert not (tmp_path / "parts").exists()
    parts = train("parts")
    expected = load_file(whole / "model.safetensors")
    found = load_file(parts / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_transformers_loads_both_rounds(train):
    first = train("first")
    second = train("second", "--round", "2", "--clusters_from", str(first))
    for folder in (first, second):
        model, facts = HubertModel.from_pretrained(folder, output_loading_info=True)
        assert not facts["missing_keys"] and not facts["unexpected_keys"]
        assert model.dtype == torch.float32
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        assert extractor.do_normalize
        heard = extractor(np.random.randn(FS), sampling_rate=FS, return_tensors="pt")
        assert model(**heard).last_hidden_state.shape == (1, 49, 32)
        assert load_file(folder / "model.safetensors").popitem()[1].dtype == torch.half
        assert str(folder.parent) not in (folder / "training.json").read_text()
    assert json.loads((second / "training.json").read_text())["round"] == 2


def test_other_options_are_refused_in_a_begun_folder(train, monkeypatch):
    def killed(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train("x")
    with pytest.raises(InputError, match="seed"):
        train("x", "--seed", "1")
    with pytest.raises(InputError, match="round 2"):
        train("y", "--round", "2")


def test_crops_are_a_function_of_seed_and_step(audio):
    streams = read_streams([str(audio / "*.wav"), str(audio)], FS, seed=0)
    assert len(streams) == 2 and all(len(stream) > FS for stream in streams)
    first, again = (Crops(streams, FS, 4, 0).draw(3) for _ in range(2))
    assert np.array_equal(first.noisy_BN, again.noisy_BN)
    other = Crops(streams, FS, 4, 0).draw(4)
    assert not np.array_equal(first.noisy_BN, other.noisy_BN)
    assert np.allclose(first.noisy_BN.mean(1), 0, atol=1e-5)
    assert np.allclose(first.noisy_BN.std(1), 1, atol=1e-3)
    assert first.frames_BT.shape == (4, count_frames(FS))


def test_targets_lie_on_the_models_frames():
    """A click is loudest in the frame that it is in the middle of."""
    stream = np.zeros(FS, np.int16)
    frame = 20
    stream[frame * 320 + 200] = 20000
    mel_BTF = LogMel()(torch.from_numpy(stream.astype(np.float32))[None] / 32768)
    assert mel_BTF.shape == (1, count_frames(FS), MELS)
    assert mel_BTF[0, :, : MELS // 2].sum(-1).argmax() == frame
    features = mfcc_features(stream)
    assert len(features) == count_frames(FS)
    assert features[:, 0].argmax() == frame


def test_positional_convolution_begins_as_fairseqs():
    conv = make_model(make_config(192, 1, 2)).encoder.pos_conv_embed.conv
    assert conv.weight.std().item() == pytest.approx((4 / (64 * 192)) ** 0.5, rel=0.05)


def test_layer_features_cover_every_frame(monkeypatch):
    monkeypatch.setattr("pretrain_targets._PIECE", FS)
    model = make_model(make_config(32, 2, 2)).eval()
    rng = np.random.default_rng(0)
    for samples in (FS // 2, FS, 3 * FS + 100, 3 * FS + 319):
        stream = (1000 * rng.standard_normal(samples)).astype(np.int16)
        features = layer_features(stream, model, 1)
        assert features.shape == (count_frames(samples), 32)

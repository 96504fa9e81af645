"""A tiny HuBERT, audio, and what pruning made of both."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from espnet_prune.cli import ssl_audio, ssl_export
from tests.families.test_speech_encoders import BASE, TINY
from tests.speech.training import train


@pytest.fixture(scope="package")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    torch.manual_seed(0)
    HubertModel(HubertConfig(**TINY, **BASE, layerdrop=0.1)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def audio(tmp_path_factory):
    """Recordings of 8 kHz, stereo, silence, and one that is none."""
    folder = tmp_path_factory.mktemp("audio")
    draw = np.random.default_rng(0)
    for i in range(24):
        samples = 0.1 * draw.standard_normal((8000 * (1 + i % 3), 1 + i % 2))
        soundfile.write(folder / f"r{i:02d}.wav", samples, 8000)
    soundfile.write(folder / "silent.flac", np.zeros(16000), 16000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="package")
def crops(audio, tmp_path_factory):
    out = tmp_path_factory.mktemp("crops") / "dump"
    ssl_audio.main(["--audio", str(audio), "--out", str(out), "--seconds", "1"])
    return out


@pytest.fixture(scope="package")
def pruned(dense, crops, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "pruned"
    train(dense, crops, out, "prune", "--max_epoch", 2, "--kind", "params+macs")
    return out


@pytest.fixture(scope="package")
def compact(pruned):
    out = pruned.parent / "compact"
    ssl_export.main(["--pruned", str(pruned), "--out", str(out)])
    return out

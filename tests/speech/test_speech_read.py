"""Models as their owners have them: old files, broken ones, what is not supported."""

import json

import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from espnet_prune.base.errors import InputError
from espnet_prune.families.ssl.audio import normalizes
from espnet_prune.families.ssl.model import read
from tests.families.test_speech_encoders import BASE, TINY

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    HubertModel(HubertConfig(**TINY, **BASE)).save_pretrained(tmp_path)
    return tmp_path


def test_old_files_of_half_precision_and_older_names_are_the_same_model(folder):
    audio = torch.randn(1, 900)
    wanted = read(folder)
    state = HubertModel.from_pretrained(folder).half().state_dict()
    at = "encoder.pos_conv_embed.conv"
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        state[f"{at}.{old}"] = state.pop(f"{at}.parametrizations.weight.{new}")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    found = read(folder)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    with torch.no_grad():
        pair = (model(audio).last_hidden_state for model in (found, wanted))
        torch.testing.assert_close(*pair, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [LFS, b""], ids=["pointer", "empty"])
def test_weights_that_are_none_are_named(folder, name, content):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="weights cannot be read.*git lfs pull"):
        read(folder)


def test_weights_of_a_training_that_diverged_are_named(folder):
    model = HubertModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.layer_norm.bias[0] = float("inf")
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="not finite, in encoder.layer_norm.bias"):
        read(folder)


@pytest.mark.parametrize(
    ("option", "value"),
    [("add_adapter", True), ("adapter_attn_dim", 4), ("conv_pos_batch_norm", True)],
)
def test_what_is_not_supported_is_named(folder, option, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {option: value}))
    with pytest.raises(InputError, match=f"{option}.* cannot be pruned"):
        read(folder)


def test_a_processors_file_tells_how_audio_is_prepared(tmp_path, caplog):
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}')
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    for normalize in (True, False):
        extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
        Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
        assert normalizes(tmp_path) == normalize
    assert not (tmp_path / "preprocessor_config.json").exists() and not caplog.text
    (tmp_path / "processor_config.json").unlink()
    assert not normalizes(tmp_path) and "audio stays as it is" in caplog.text
    # What is not said is transformers' default.
    told = tmp_path / "preprocessor_config.json"
    told.write_text('{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}')
    assert normalizes(tmp_path)
    told.write_text("{")
    with pytest.raises(InputError, match="preprocessor cannot be read"):
        normalizes(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="wants 8000 Hz -> only models of 16000 Hz"):
        normalizes(tmp_path)

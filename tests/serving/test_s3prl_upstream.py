"""Compact encoders as upstreams of s3prl, and as the frontend of an ESPnet model."""

import argparse
import json

import pytest
import torch
from espnet2.tasks.asr import ASRTask
from s3prl.nn import S3PRLUpstream
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import GateOptions
from espnet_prune.export.ssl import save
from espnet_prune.families.ssl.model import (
    architecture_of,
    build,
    layer_states,
    prepare,
    read,
)
from espnet_prune.pruning.slicing import sliced
from espnet_prune.serving.s3prl_upstream import upstream
from tests.families.test_speech_encoders import BASE, LARGE, TINY
from tests.fixtures.encoders import shaken
from tests.fixtures.gated import drawn_values


@pytest.fixture(scope="module", params=[BASE, LARGE], ids=["base", "large"])
def compact(request, tmp_path_factory):
    """A compact HuBERT of unequal sizes."""
    dense, out = (tmp_path_factory.mktemp(name) for name in ("dense", "compact"))
    torch.manual_seed(0)
    model = shaken(HubertModel(HubertConfig(**TINY, **request.param)))
    model.save_pretrained(dense)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(dense)
    model = read(dense)
    layout = prepare(model, GateOptions()).layout
    own = drawn_values(layout, 1, 0.6, 1.0)
    small = build(model, architecture_of(layout, own))
    small.load_state_dict(sliced(layout, model.state_dict(), own))
    save(small, out, dense)
    return out


def test_s3prl_gives_the_models_hidden_states(compact):
    audio = torch.randn(1, 16000)
    hub = S3PRLUpstream("espnet_prune", path_or_url=str(compact)).eval()
    found, lengths = hub(audio, torch.tensor([16000]))
    normal = (audio - audio.mean()) / torch.sqrt(audio.var(unbiased=False) + 1e-7)
    with torch.no_grad():
        wanted = layer_states(read(compact), normal)
    for own, states in zip(found, wanted, strict=True):
        common = min(own.shape[1], states.shape[1])  # s3prl trims or pads a frame
        torch.testing.assert_close(own[:, :common], states[:, :common])
    assert abs(int(lengths[0][0]) - wanted[0].shape[1]) <= 1


def test_an_utterance_is_the_same_in_every_batch(compact):
    own = upstream(str(compact)).eval()
    wavs = [torch.randn(n) for n in (16000, 9000, 4000)]
    with torch.no_grad():
        together = own(wavs)["hidden_states"]
        for i, wav in enumerate(wavs):
            for states, alone in zip(
                together, own([wav])["hidden_states"], strict=True
            ):
                torch.testing.assert_close(
                    states[i, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4
                )


def test_what_a_config_holds_is_the_same_model(compact):
    files = {"config": "config.json", "preprocessor": "preprocessor_config.json"}
    read = {name: json.loads((compact / f).read_text()) for name, f in files.items()}
    named, held = upstream(str(compact)).eval(), upstream(**read).eval()
    assert held.model.config.architecture == named.model.config.architecture
    held.load_state_dict(named.state_dict(), strict=True)
    wavs = [torch.randn(n) for n in (9000, 4000)]
    with torch.no_grad():
        for own, other in zip(
            held(wavs)["hidden_states"], named(wavs)["hidden_states"], strict=True
        ):
            assert own.equal(other)
    with pytest.raises(InputError, match="lacks path_or_url"):
        upstream(refresh=False)


def test_a_frozen_one_stays_as_it_is_when_a_trainer_calls_train(compact):
    own = upstream(str(compact)).train()
    assert own.model.training and not own.model.config.apply_spec_augment
    own.requires_grad_(False).train()
    assert not own.model.training


def test_espnet_trains_a_recognizer_on_it(compact):
    options = argparse.Namespace(
        **vars(ASRTask.get_parser().parse_args(["--token_type", "char"]))
        | {
            "token_list": ["<blank>", "<unk>", "a", "b", "<sos/eos>"],
            "frontend": "s3prl",
            "frontend_conf": {
                "frontend_conf": {
                    "upstream": "espnet_prune", "path_or_url": str(compact)
                },
                "multilayer_feature": True,
            },
            "specaug": None,
            "normalize": "utterance_mvn",
            "encoder": "transformer",
            "encoder_conf": {
                "output_size": 8, "attention_heads": 2, "num_blocks": 1,
                "input_layer": "linear",
            },
            "model_conf": {"ctc_weight": 1.0},
        }
    )  # fmt: skip
    model = ASRTask.build_model(options)
    loss, stats, _ = model(
        torch.randn(2, 16000),
        torch.tensor([16000, 12000]),
        torch.tensor([[2, 3, 2], [3, 2, -1]]),
        torch.tensor([3, 2]),
    )
    loss.backward()
    assert torch.isfinite(loss)
    learnt = [n for n, p in model.frontend.named_parameters() if p.grad is not None]
    assert any("attention" in name for name in learnt)

"""``espnet_prune.load``: ESPnet's decoder with our encoder in one precision."""

import sys

import numpy as np
import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.cli import asr_inference
from espnet_prune.serving import load as loading
from espnet_prune.serving.inference import RuntimeEncoder
from espnet_prune.serving.load import load, set_precision
from tests.fixtures.gated import CASES

DECODING = {"beam_size": 2, "ctc_weight": 0.3, "maxlenratio": 0.2}


def files(folder):
    return folder / "config.yaml", folder / "model.pth"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_decodes_as_espnet_does(dense, precision):
    audio = np.random.default_rng(0).standard_normal(8000).astype("float32")
    expected = Speech2Text(*map(str, files(dense)), **DECODING)(audio)[0]
    decoder = load(*files(dense), precision, **DECODING)
    assert isinstance(decoder.asr_model.encoder, RuntimeEncoder)
    actual = decoder(audio)[0]
    assert actual[:3] == expected[:3]
    assert float(actual[3].score) == pytest.approx(float(expected[3].score), rel=0.02)


@pytest.fixture(scope="module")
def of_another_kind(dense, tmp_path_factory):
    """A model whose encoder has an option that is not supported."""
    from espnet2.tasks.asr import ASRTask

    folder = tmp_path_factory.mktemp("other")
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["encoder_conf"]["positionwise_layer_type"] = "conv1d"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


def test_an_encoder_that_ours_cannot_compute_stays_or_is_named(of_another_kind):
    decoder = load(*files(of_another_kind), **DECODING)
    assert type(decoder.asr_model.encoder).__name__ == "ConformerEncoder"
    with pytest.raises(InputError, match="config.yaml: .* onnxruntime does not run it"):
        load(*files(of_another_kind), "int8")


def test_a_conditioned_encoder_stays_and_is_as_espnet_decodes_it(make_dense):
    folder = make_dense(encoder_conf=CASES["conformer_conditioned"].conf)
    decoder, audio = load(*files(folder), **DECODING), np.ones(8000, "float32")
    assert type(decoder.asr_model.encoder).__name__ == "ConformerEncoder"
    expected, told = Speech2Text(*map(str, files(folder)), **DECODING)(audio)
    actual, between = decoder(audio)
    assert actual[0][:3] == expected[0][:3] and between == told
    what = "'conformer' with interctc_use_conditioning cannot be used so: onnxruntime"
    with pytest.raises(InputError, match=what):
        load(*files(folder), "int8")


def test_without_its_runtime_espnets_encoder_stays(dense, monkeypatch):
    monkeypatch.setattr(loading, "has_runtime", lambda: False)
    decoder = load(*files(dense), **DECODING)
    assert type(decoder.asr_model.encoder).__name__ == "ConformerEncoder"


def test_weights_that_are_not_all_of_the_models_are_refused(dense, tmp_path):
    config, weights = files(dense)
    state = torch.load(weights, weights_only=True)
    del state["ctc.ctc_lo.bias"]
    torch.save(state, tmp_path / "partial.pth")
    with pytest.raises(InputError, match="partial.pth: does not fit.*ctc"):
        load(config, tmp_path / "partial.pth")


def test_pruning_runs_are_refused_for_their_gates_would_be_forgotten(
    pruned, monkeypatch
):
    run = pruned / "config.yaml", pruned / "latest.pth"
    for precision in ("fp32", "int8"):
        with pytest.raises(InputError, match="config.yaml: is a pruning run -> export"):
            load(*run, precision)
    decoder = Speech2Text(*map(str, run), beam_size=1)  # ESPnet's own
    with pytest.raises(InputError, match="is a pruning run -> export"):
        decoder(torch.randn(4000).numpy())
    argv = ["asr_inference", "--asr_train_config", run[0], "--asr_model_file", run[1]]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    with pytest.raises(InputError, match="is a pruning run"):
        asr_inference.main()


@pytest.mark.parametrize(
    "precision, options, told",
    [
        ("fp32", {"quantize_asr_model": True}, "^quantize_asr_model: .* leave it out"),
        ("int8", {"quantize_asr_model": True}, "^quantize_asr_model: .* leave it out"),
        ("int8", {"dtype": "float64"}, "^dtype: torch.float64 does not go with int8"),
        ("int8", {"dtype": "bfloat16"}, "^dtype: torch.bfloat16 does not go with int8"),
        ("fp32", {"device": "cuda:77"}, "^device: cuda:77: torch sees"),
        ("bf16", {"device": "cuda:77"}, "^device: cuda:77: torch sees"),
        ("fp32", {"device": "gpu"}, "^device: 'gpu' is none"),
    ],
)
def test_options_that_do_not_go_together_are_named(dense, precision, options, told):
    with pytest.raises(InputError, match=told):
        load(*files(dense), precision, **DECODING, **options)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_precision_is_chosen_once(dense, precision):
    decoder = load(*files(dense), **DECODING)
    with pytest.raises(InputError, match="already in fp32 -> load the model again"):
        set_precision(decoder, precision)


def test_the_package_has_no_more_than_it_says():
    assert espnet_prune.load is load
    with pytest.raises(AttributeError, match="nothing"):
        _ = espnet_prune.nothing

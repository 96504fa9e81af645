"""``espnet_prune.load``: ESPnet's decoder with our encoder in one precision."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.serving.fast.precision import check_precision
from espnet_prune.serving.load import set_precision

DECODING = {"beam_size": 2, "ctc_weight": 0.3, "maxlenratio": 0.2}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_it_decodes_as_espnet_does(dense, precision):
    from espnet2.bin.asr_inference import Speech2Text

    try:
        check_precision(precision, torch.device("cpu"))
    except InputError as e:
        pytest.skip(str(e))
    files = str(dense / "config.yaml"), str(dense / "model.pth")
    audio = np.random.default_rng(0).standard_normal(8000).astype("float32")
    expected = Speech2Text(*files, **DECODING)(audio)[0]
    actual = espnet_prune.load(*files, precision, **DECODING)(audio)[0]
    assert actual[:3] == expected[:3]
    assert float(actual[3].score) == pytest.approx(float(expected[3].score), rel=0.02)


def test_an_encoder_that_is_no_prunable_conformer_is_named(dense, tmp_path):
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["encoder_conf"]["rel_pos_type"] = "legacy"
    config["encoder_conf"]["pos_enc_layer_type"] = "abs_pos"
    config["encoder_conf"]["selfattention_layer_type"] = "selfattn"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    from espnet2.tasks.asr import ASRTask

    model, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with pytest.raises(InputError, match="not one that can run in int8"):
        espnet_prune.load(tmp_path / "config.yaml", tmp_path / "model.pth", "int8")


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
    files = dense / "config.yaml", dense / "model.pth"
    with pytest.raises(InputError, match=told):
        espnet_prune.load(*files, precision, **DECODING, **options)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_precision_is_chosen_once(dense, precision):
    decoder = espnet_prune.load(dense / "config.yaml", dense / "model.pth", **DECODING)
    with pytest.raises(InputError, match="already in fp32 -> load the model again"):
        set_precision(decoder, precision)


def test_gates_are_not_forgotten(make_encoder):
    gated = make_encoder(gates={}).eval()
    decoder = SimpleNamespace(
        asr_model=SimpleNamespace(encoder=gated),
        asr_train_args=SimpleNamespace(encoder="prunable_conformer"),
    )
    set_precision(decoder, "fp32")
    assert decoder.asr_model.encoder is gated
    with pytest.raises(InputError, match="once it is exported"):
        set_precision(decoder, "int8")


def test_importing_leaves_torch_as_it_was():
    code = """
import torch
engine = torch.backends.quantized.supported_engines[-1]
torch.set_num_threads(3)
torch.set_num_interop_threads(2)
torch.set_default_dtype(torch.float64)
torch.backends.quantized.engine = engine
import espnet_prune, espnet_prune.serving.load
assert torch.get_num_threads() == 3
assert torch.get_num_interop_threads() == 2
assert torch.get_default_dtype() is torch.float64
assert torch.backends.quantized.engine == engine
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_stays_light():
    assert callable(espnet_prune.load)
    with pytest.raises(AttributeError, match="nothing"):
        _ = espnet_prune.nothing

"""``espnet_prune.load``: ESPnet's decoder with our encoder in one precision."""

import numpy as np
import pytest
import torch
import yaml

import espnet_prune
from espnet_prune.errors import InputError
from espnet_prune.inference.precision import check_precision

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


def test_importing_the_package_stays_light():
    assert callable(espnet_prune.load)
    with pytest.raises(AttributeError, match="nothing"):
        _ = espnet_prune.nothing

"""Encoders of s3prl's own upstreams, translated for transformers."""

import json

import pytest
import torch

from espnet_prune.base.errors import OptionError
from espnet_prune.families.ssl.configs import from_config
from espnet_prune.families.ssl.fairseq import UPSTREAMS, translate
from espnet_prune.families.ssl.model import settle
from tests.fixtures.s3prl_upstreams import CASES, SHAPES, SIZES

RECORDED = json.loads(SHAPES.read_text())
OF_PRETRAINING = (
    "final_proj.", "label_embs_concat", "quantizer.", "project_q.",
)  # fmt: skip


def recorded(case):
    return {k: torch.empty(v, device="meta") for k, v in RECORDED[case].items()}


def error(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_of_s3prl_are_those_of_transformers(case):
    state = recorded(case)
    found = translate(state, UPSTREAMS[case])
    config, large = found.config, "large" in case
    model = from_config(config)
    settle(model)
    shapes = {name: tensor.shape for name, tensor in found.weights.items()}
    assert shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}
    # Of the positional convolution's normed weight there are two parts.
    used = [name for name in state if not name.startswith(OF_PRETRAINING)]
    assert len(used) - 1 == len(shapes)
    assert config["model_type"] == UPSTREAMS[case]
    assert config["num_hidden_layers"] == SIZES["encoder_layers"]
    assert config["intermediate_size"] == SIZES["encoder_ffn_embed_dim"]
    assert config["num_attention_heads"] == SIZES["encoder_attention_heads"]
    assert config["do_stable_layer_norm"] is large
    assert config["feat_extract_norm"] == ("layer" if large else "group")
    assert config["conv_bias"] is CASES[case].get("conv_bias", False)
    assert found.preprocessor["do_normalize"] is large


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask_emb": None}, "is no hubert of s3prl's: .*masked_spec_embed"),
        ({"encoder.adapter.weight": (3, 3)}, "is no hubert .*encoder.adapter.weight"),
        ({"encoder.layers.1.fc1.weight": (25, 768)}, "is no hubert .*size mismatch"),
        ({"encoder.layers.0.fc1.weight": None}, "has no encoder.layers.0.fc1.weight"),
        ({"encoder.pos_conv.0.weight_g": None}, "has no encoder.pos_conv.0.weight_g"),
        ({"encoder.pos_conv.0.weight_v": (512, 48, 128)}, "has the width 512"),
        (
            {"feature_extractor.conv_layers.6.0.weight": (8, 8, 3)},
            r"has convolutions of \[10, 3, 3, 3, 3, 2, 3\] taps",
        ),
    ],
)
def test_what_is_no_published_encoder_is_refused(change, told):
    shapes = RECORDED["hubert_large_ll60k"] | change
    state = {k: torch.empty(v, device="meta") for k, v in shapes.items() if v}
    with pytest.raises(OptionError, match=f"^its encoder {told}"):
        translate(state, "hubert")


@pytest.mark.parametrize("case", CASES)
def test_translated_encoders_compute_what_those_of_s3prl_do(case, published):
    """Each utterance of a padded batch, as s3prl encodes it alone: in a batch its group
    norms, and its masks, see a part of the padding."""
    published(case)
    from s3prl.nn import S3PRLUpstream

    theirs = S3PRLUpstream(case).eval()
    found = translate(theirs.upstream.model.state_dict(), UPSTREAMS[case])
    told = {"config": found.config, "preprocessor": found.preprocessor}
    ours = S3PRLUpstream("espnet_prune", extra_conf=told).eval()
    ours.upstream.model.load_state_dict(found.weights, strict=True)
    # Not loud, and not around zero: what s3prl adds to the variance shows.
    audio = 0.01 * torch.randn(3, 40000) + 0.002
    lengths = torch.tensor([40000, 32345, 5000])
    with torch.no_grad():
        batch, numbers = ours(audio, lengths)
        for i, samples in enumerate(lengths.tolist()):
            given = audio[i : i + 1, :samples], lengths[i : i + 1]
            alone, number = theirs(*given)
            assert len(batch) == len(alone) == SIZES["encoder_layers"] + 1
            # What it computes; s3prl counts a frame or two more.
            inside = slice((samples - 400) // 320 + 1)
            for own, together, wanted in zip(
                ours(*given)[0], batch, alone, strict=True
            ):
                assert error(own, wanted) < 1e-4
                assert error(together[i, inside], wanted[0, inside]) < 1e-4
            assert int(numbers[0][i]) == int(number[0])

import pytest
from espnet2.tasks.asr import ASRTask

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.cost import count_macs, count_params, sampling_rate


@pytest.fixture(scope="module")
def dense(tiny_models):
    return ASRTask.build_model_from_file(*tiny_models["dense"], "cpu")


def test_params_add_up_to_numel(dense):
    model, _ = dense
    found = count_params(model)
    assert found["total"] == sum(p.numel() for p in model.parameters())
    assert found["encoder"] == found["subsampling"] + found["blocks"]
    assert found["total"] == found["encoder"] + found["decoder"]
    d, mels = 16, 40  # two 3x3 convolutions with stride 2, then a linear layer
    width = ((mels - 1) // 2 - 1) // 2
    convs = (9 * d + d) + (9 * d * d + d)
    assert found["subsampling"] == convs + d * width * d + d


def test_macs_equal_the_formula_by_hand(dense):
    """Stock Conformer of 2 blocks; matrix products and convolutions, term by term."""
    seconds, d, ff, kernel, mels, blocks = 2.0, 16, 24, 7, 40, 2
    frames = int(seconds * 16000) // 160 + 1  # the STFT centres its windows
    t1, f1 = (frames - 1) // 2, (mels - 1) // 2
    t, f = (t1 - 1) // 2, (f1 - 1) // 2
    subsampling = t1 * f1 * 9 * d + t * f * 9 * d * d + t * d * f * d
    positions = 2 * t - 1
    attention = 4 * t * d * d + positions * d * d  # q, k, v, out; linear_pos
    attention += t * t * d + t * positions * d + t * t * d  # content, position, values
    conv = t * d * 2 * d + t * d * kernel + t * d * d
    block = 2 * (2 * t * d * ff) + attention + conv
    found = count_macs(*dense, seconds=seconds)
    assert found["subsampling"] == round(subsampling / seconds)
    assert found["blocks"] == round(blocks * block / seconds)
    assert found["encoder"] == found["subsampling"] + found["blocks"]


def test_prunable_encoder_counts_like_espnets(dense, tiny_models):
    from espnet_prune.families.espnet.conformer import PrunableConformerEncoder

    model, args = ASRTask.build_model_from_file(*tiny_models["dense"], "cpu")
    expected = count_macs(model, args)
    conf = {k: v for k, v in args.encoder_conf.items() if k != "input_size"}
    model.encoder = PrunableConformerEncoder(model.frontend.output_size(), **conf)
    assert count_macs(model, args) == expected
    model.requires_grad_(False)
    assert count_macs(model, args) == expected


def test_sampling_rate_is_that_of_the_frontend(dense):
    _, args = dense
    assert sampling_rate(args) == 16000
    args.frontend_conf = {**args.frontend_conf, "fs": "8k"}
    assert sampling_rate(args) == 8000
    args.frontend_conf.pop("fs")


def test_model_of_features_is_refused(tiny_models):
    model, args = ASRTask.build_model_from_file(*tiny_models["dense"], "cpu")
    model.frontend = None
    with pytest.raises(InputError, match="features"):
        count_macs(model, args)


def test_rest_of_a_model_is_what_its_encoder_is_not(make_model):
    from espnet_prune.measuring.cost import rest_cost

    model = make_model(encoder="prunable_conformer")
    rest = rest_cost(model, frames=100, tokens=5)
    parts = sum(
        p.numel() for p in (*model.ctc.parameters(), *model.decoder.parameters())
    )
    assert rest["params"] == parts
    # CTC: 24 frames of 16 channels to 7 tokens; the decoder costs something, too.
    ctc_only = make_model(encoder="prunable_conformer", model_conf={"ctc_weight": 1.0})
    assert rest_cost(ctc_only, 100, 5)["macs"] == 24 * 16 * 7
    assert rest["macs"] > 24 * 16 * 7

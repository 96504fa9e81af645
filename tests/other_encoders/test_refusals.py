"""The other encoders: options, sizes and kinds that are refused, and the report."""

import pytest
from kinds import FEATURES, KINDS, SIZES

from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.transformer import PrunableTransformerEncoder


def test_architecture_of_another_kind_is_refused():
    conformer = Architecture.dense(16, 4, 24, 2).to_dict()
    with pytest.raises(ValueError, match="is 'conformer', not 'transformer'"):
        PrunableTransformerEncoder(FEATURES, **SIZES, architecture=conformer)


def test_architecture_survives_a_round_trip(kind):
    own = kind.ours(FEATURES, **kind.sizes).architecture
    assert Architecture.from_dict(own.to_dict()) == own
    assert own.to_dict()["kind"] == kind.name
    with pytest.raises(ValueError, match="kind must be one of"):
        Architecture.from_dict(own.to_dict() | {"kind": "rnn"})


@pytest.mark.parametrize(
    "wrong", [{"attn_out": 0}, {"cgmlp": 0}, {"heads": 0}, {"v_dim": 0}, {"ffn2": -1}]
)
def test_half_a_branch_is_refused(wrong):
    kind = KINDS["e_branchformer"]
    sizes = kind.ours(FEATURES, **kind.sizes).architecture.to_dict()
    sizes["blocks"][1] |= wrong
    with pytest.raises(ValueError, match=r"encoder_conf\.architecture"):
        Architecture.from_dict(sizes)


REFUSED = {
    "transformer": [
        {"input_layer": "linear"},
        {"pos_enc_layer_type": "conv"},
        {"normalize_before": False},
        {"interctc_layer_idx": [1]},
        {"qk_norm": True},
        {"cnn_module_kernel": 31},
    ],
    "e_branchformer": [
        {"input_layer": "linear"},
        {"attention_layer_type": "fast_selfattn"},
        {"rel_pos_type": "legacy"},
        {"use_linear_after_conv": True},
        {"interctc_layer_idx": [1]},
        {"cgmlp_linear_units": 13},
        {"merge_conv_kernel": 4},
        {"cnn_module_kernel": 31},
    ],
}


@pytest.mark.parametrize(
    "kind, option", [(KINDS[k], option) for k in REFUSED for option in REFUSED[k]]
)
def test_options_that_it_does_not_compute_are_refused_by_name(kind, option):
    (name,) = option
    with pytest.raises(ValueError, match=name):
        kind.ours(FEATURES, **kind.sizes | option)


def test_what_has_no_effect_here_is_said(caplog):
    from espnet_prune.training.configs import model_config

    kind = KINDS["e_branchformer"]
    kind.ours(FEATURES, **kind.sizes, layer_drop_rate=0.1, interctc_layer_idx=None)
    assert "layer_drop_rate is ignored" in caplog.text
    config = {"encoder": kind.name, "token_list": ["a"]}
    config["encoder_conf"] = {"layer_drop_rate": 0.1, "num_blocks": 2}
    assert model_config(config, "")["encoder_conf"] == {"num_blocks": 2}


def test_loaded_models_take_the_prunable_encoder(kind, dense_model):
    from espnet_prune.serving.load import load

    model = load(dense_model / "config.yaml", dense_model / "model.pth").asr_model
    assert type(model.encoder) is kind.ours


def test_report_names_all_units(kind, gated, random_masks):
    from espnet_prune.report.tables import kept_table

    encoder = gated()
    encoder.set_masks(random_masks(encoder))
    small, large = encoder.kept().to_dict(), encoder.architecture.to_dict()
    table = kept_table({"architecture": small, "dense_architecture": large})
    assert table.header == ["block", *large["blocks"][0]]
    assert [len(row) for row in table.rows] == [len(table.header)] * 2


@pytest.mark.parametrize("name", ["contextual_block_conformer", "longformer", "rnn"])
def test_other_encoders_are_refused_by_name(name):
    from espnet_prune.base.errors import InputError
    from espnet_prune.training.configs import model_config

    with pytest.raises(InputError, match=f"encoder '{name}' cannot be pruned"):
        model_config({"encoder": name}, "exp/config.yaml")


@pytest.mark.parametrize("name", KINDS)
def test_gates_on_the_model_dimension_are_refused(name):
    kind = KINDS[name]
    with pytest.raises(ValueError, match=f"model_dim is not possible for .* {name}"):
        kind.ours(FEATURES, **kind.sizes, gates={"model_dim": True})

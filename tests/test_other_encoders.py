"""The encoders beside the Conformer: the three equalities, and what they refuse."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.architecture import Architecture
from espnet_prune.e_branchformer import PrunableEBranchformerEncoder
from espnet_prune.gates import gates_of
from espnet_prune.transformer import PrunableTransformerEncoder

FEATURES = 20
SIZES = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 2}
NO_DROPOUT = dict.fromkeys(
    ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0
)


@dataclass(frozen=True, eq=False)
class Kind:
    """ESPnet's encoder and ours, tiny sizes, and options of the kind to draw."""

    name: str
    stock: type
    ours: type
    sizes: dict[str, Any]
    drawn: st.SearchStrategy[dict[str, Any]]

    def __str__(self) -> str:
        return self.name


def branch_sizes(half, kernel, merge, ffn, gating):
    conf = {"cgmlp_linear_units": 2 * half, "cgmlp_conv_kernel": 2 * kernel + 1}
    conf |= {"merge_conv_kernel": 2 * merge + 1, "gate_activation": gating}
    return conf | {"use_ffn": ffn > 0, "macaron_ffn": ffn > 1}


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "transformer",
            TransformerEncoder,
            PrunableTransformerEncoder,
            SIZES,
            st.just({}),
        ),
        Kind(
            "e_branchformer",
            EBranchformerEncoder,
            PrunableEBranchformerEncoder,
            SIZES | branch_sizes(20, 2, 1, 2, "identity"),
            st.builds(
                branch_sizes,
                st.integers(1, 20),
                st.integers(0, 4),
                st.integers(0, 2),
                st.integers(0, 2),
                st.sampled_from(["identity", "swish", "relu"]),
            ),
        ),
    )
}


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request) -> Kind:
    return request.param


@pytest.fixture
def pair(kind, shake):
    """``pair(**sizes)``: ESPnet's encoder, and ours with its weights."""

    def make(**sizes):
        conf = kind.sizes | NO_DROPOUT | sizes
        stock = shake(kind.stock(FEATURES, **conf))
        ours = kind.ours(FEATURES, **conf)
        ours.load_state_dict(stock.state_dict())
        return stock, ours

    return make


@pytest.fixture
def gated(kind, shake):
    def make(**conf):
        conf = kind.sizes | NO_DROPOUT | {"gates": {}} | conf
        return shake(kind.ours(FEATURES, **conf)).eval()

    return make


@pytest.fixture
def compact_of(kind):
    """``compact_of(gated, **conf)``: the compact encoder that the masks leave."""

    def make(gated, **conf):
        conf = kind.sizes | NO_DROPOUT | conf
        compact = kind.ours(FEATURES, **conf, architecture=gated.kept().to_dict())
        compact.load_state_dict(gated.sliced_state(), strict=True)
        return compact.eval()

    return make


def assert_same(one, other, x, lengths, limit=1e-5):
    (first, hidden), lens, _ = one(x, lengths, return_all_hs=True)
    (second, others), other_lens, _ = other(x, lengths, return_all_hs=True)
    scale = first.abs().max()
    assert (first - second).abs().max() <= limit * scale
    assert lens.equal(other_lens)
    for a, b in zip(hidden, others, strict=True):
        assert (a - b).abs().max() <= limit * max(a.abs().max(), 1)


@pytest.mark.parametrize("name", KINDS)
@given(
    heads=st.integers(1, 4), half=st.integers(1, 5), units=st.integers(1, 40),
    blocks=st.integers(1, 3), train=st.booleans(), data=st.data(),
)  # fmt: skip
def test_dense_is_espnets_encoder(name, heads, half, units, blocks, train, data):
    kind = KINDS[name]
    conf = {"output_size": 2 * half * heads, "attention_heads": heads}
    conf |= {"linear_units": units, "num_blocks": blocks} | NO_DROPOUT
    conf |= data.draw(kind.drawn)
    stock = kind.stock(FEATURES, **conf).train(train)
    ours = kind.ours(FEATURES, **conf).train(train)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours.load_state_dict(stock.state_dict())
    # In fp64: a norm of two channels makes much of the rounding of fp32.
    x = torch.randn(3, 61, FEATURES, dtype=torch.double)
    assert_same(stock.double(), ours.double(), x, torch.tensor([61, 40, 7]))


def test_dropout_is_espnets(pair):
    rates = {"dropout_rate": 0.3, "attention_dropout_rate": 0.2}
    stock, ours = pair(**rates)
    x, lengths = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    outputs = []
    for encoder in (stock, ours):
        for block in encoder.encoders:  # ESPnet draws numbers between them, too
            block.register_forward_pre_hook(lambda *_: torch.manual_seed(3) and None)
        torch.manual_seed(3)
        outputs.append(encoder.train()(x, lengths)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_gradients_are_espnets(pair):
    stock, ours = pair()
    x, lengths = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    grads = []
    for encoder in (stock.train(), ours.train()):
        encoder(x, lengths)[0].square().sum().backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters()})
    for name, grad in grads[0].items():
        scale = grad.abs().max()
        assert (grads[1][name] - grad).abs().max() <= 1e-4 * scale + 1e-6, name


def test_open_gates_change_nothing(kind, gated, open_masks):
    encoder = gated()
    encoder.set_masks(open_masks(encoder))
    dense = kind.ours(FEATURES, **kind.sizes | NO_DROPOUT)
    weights = {k: v for k, v in encoder.state_dict().items() if "log_alpha" not in k}
    dense.load_state_dict(weights)
    x = torch.randn(2, 50, FEATURES), torch.tensor([50, 31])
    for mode in (True, False):
        assert_same(encoder.train(mode), dense.train(mode), *x)


@pytest.mark.parametrize("seed", range(6))
def test_gated_with_masks_is_compact(gated, compact_of, random_masks, seed):
    torch.manual_seed(seed)
    encoder = gated()
    encoder.set_masks(random_masks(encoder, seed))
    x = torch.randn(3, 61, FEATURES), torch.tensor([61, 40, 7])
    assert_same(encoder, compact_of(encoder), *x)


@pytest.mark.parametrize("name", KINDS)
@given(
    seed=st.integers(0, 10**6), fine=st.booleans(), unit_rate=st.floats(0.05, 0.95),
    module_rate=st.floats(0.2, 1.0), soft=st.booleans(), train=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_drawn_gates_with_masks_are_compact(
    name, shake, random_masks, seed, fine, unit_rate, module_rate, soft, train, data
):
    kind = KINDS[name]
    torch.manual_seed(seed)
    conf = kind.sizes | NO_DROPOUT | data.draw(kind.drawn)
    gates = {"fine_heads": fine}
    encoder = shake(kind.ours(FEATURES, **conf, gates=gates)).double().train(train)
    masks = random_masks(encoder, seed, unit_rate, module_rate, soft)
    encoder.set_masks({n: mask.double() for n, mask in masks.items()})
    compact = kind.ours(FEATURES, **conf, architecture=encoder.kept().to_dict())
    compact = compact.double().train(train)
    compact.load_state_dict(encoder.sliced_state(), strict=True)
    x = torch.randn(3, 40, FEATURES, dtype=torch.double), torch.tensor([40, 31, 9])
    assert_same(encoder, compact, *x, limit=1e-6)


GONE = {
    "transformer": [
        "self_attn.module", "self_attn.head", "self_attn.v_", "feed_forward.module", "",
    ],
    "e_branchformer": [
        "attn.module", "attn.head", "attn.v_", "attn.out", "cgmlp.module", "cgmlp.unit",
        "cgmlp.out", "feed_forward.module", "feed_forward_macaron", "",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind, closed", [(KINDS[k], c) for k in GONE for c in GONE[k]])
def test_gated_is_compact_where_a_kind_of_unit_is_gone(
    gated, compact_of, open_masks, closed
):
    encoder = gated()
    masks = open_masks(encoder)
    for name, mask in masks.items():
        if name.startswith("encoders.1") and closed in name:
            mask.zero_()
    encoder.set_masks(masks)
    x = torch.randn(2, 40, FEATURES), torch.tensor([40, 9])
    compact = compact_of(encoder)
    assert_same(encoder, compact, *x)
    assert_same(encoder.train(), compact.train(), *x)
    # DDP stops at a parameter that is not used.
    compact(*x)[0].square().sum().backward()
    unused = [n for n, p in compact.named_parameters() if p.grad is None]
    assert not unused
    int8 = torch.ao.quantization.quantize_dynamic(compact.eval(), {torch.nn.Linear})
    assert int8(*x)[0].isfinite().all()
    assert encoder.kept().blocks[1] != encoder.kept().blocks[0]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_cost_by_formula_is_cost_by_counting(
    kind, gated, compact_of, random_masks, compact, seed
):
    encoder = gated()
    if compact:
        encoder.set_masks(random_masks(encoder, seed))
        encoder = compact_of(encoder)
    else:
        encoder = kind.ours(FEATURES, **kind.sizes).eval()
    frames = 87 + seed
    cost = encoder.architecture.cost(encoder.fixed, frames)["encoder"]
    assert cost.params == sum(p.numel() for p in encoder.parameters())
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, frames, FEATURES), torch.tensor([frames]))
    assert cost.macs == counter.get_total_flops() / 2


def test_expected_cost_is_the_formula_of_what_the_masks_leave(gated, open_masks):
    encoder = gated()
    masks = open_masks(encoder)
    for name, mask in masks.items():  # whole heads: no padding of unequal ones
        if "qk_gate" not in name and "v_gate" not in name and len(mask) > 1:
            mask[: len(mask) // 3] = 0
    masks["encoders.1.feed_forward.module_gate"].zero_()
    encoder.set_masks(masks)
    kept = encoder.kept().cost(encoder.fixed, 87)["encoder"]
    found = encoder.gated_cost(87, lambda gate: (gate.mask != 0).float())
    assert (float(found.params), float(found.macs)) == (kept.params, kept.macs)


@pytest.mark.parametrize("mode", ["straight_through", "hard_concrete"])
def test_everything_gets_a_gradient_in_the_gated_life(gated, mode):
    encoder = gated(gates={"mode": mode}).train()
    out, *_ = encoder(torch.randn(2, 50, FEATURES), torch.tensor([50, 31]))
    cost = encoder.gated_cost(87)
    (out.square().sum() + cost.params + cost.macs).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("target", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_projection_meets_the_budget_and_uses_it(
    gated, target, multiple, seed, monkeypatch
):
    from espnet_prune.projection import project
    from espnet_prune.sparsity import SparsityOptions, make_budget
    from espnet_prune.unit_prices import UnitPrices

    torch.manual_seed(seed)
    encoder = gated()
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            gate.log_alpha.normal_(0.3, 2.0)
    options = SparsityOptions(kind="params+macs", target=target)
    budget = make_budget(options, encoder, 87)
    measured = []

    def of(prices, unit, keep, real=UnitPrices.of):
        measured.append(real(prices, unit, keep))
        assert measured[-1] == pytest.approx(prices._measured(unit, keep))
        return measured[-1]

    monkeypatch.setattr(UnitPrices, "of", of)
    found = project(encoder, budget, multiple)
    assert measured
    encoder.set_masks(found.masks)
    kept = encoder.kept().cost(encoder.fixed, 87)["encoder"]
    dense = encoder.architecture.cost(encoder.fixed, 87)["encoder"]
    gone = [1 - k / d for k, d in zip(kept, dense, strict=True)]
    assert gone == pytest.approx(found.removed, abs=1e-6)
    assert min(gone) >= target - 1e-9
    rest = [g - target - s for g, s in zip(gone, found.slack, strict=True)]
    assert multiple > 1 or min(rest) <= 1e-6, (gone, found.slack)
    for block in encoder.kept().to_dict()["blocks"]:
        sizes = {unit: n for unit, n in block.items() if unit != "heads"}
        assert not any(n % multiple for n in sizes.values()), sizes


@pytest.fixture
def gating_mlp():
    """That of a gated E-Branchformer's first block."""
    kind = KINDS["e_branchformer"]
    encoder = kind.ours(FEATURES, **kind.sizes | NO_DROPOUT, gates={})
    return encoder.encoders[0].cgmlp


def test_norm_and_product_see_the_same_sample(gating_mlp, monkeypatch):
    seen = []
    gate, product = gating_mlp.csgu.forward, gating_mlp._gated_output
    monkeypatch.setattr(
        gating_mlp.csgu, "forward", lambda x, kept: seen.append(kept) or gate(x, kept)
    )
    monkeypatch.setattr(
        gating_mlp, "_gated_output", lambda units: seen.append(units) or product(units)
    )
    with torch.no_grad():
        gating_mlp.unit_gate.log_alpha.zero_()  # half of them are open
    gating_mlp.train()(torch.randn(1, 9, 16))
    kept, units = seen
    assert 0 < kept.sum() < len(kept) and torch.equal(kept > 0, units > 0)


def test_units_that_are_closed_stay_within_the_norms_bounds(gating_mlp):
    x, kept = torch.randn(2, 9, 20), torch.zeros(20)
    kept[5] = 1  # its variance is 0
    with torch.no_grad():
        gating_mlp.csgu.norm.bias.zero_()
    normed = gating_mlp.csgu._norm_of(x, kept)
    assert normed.abs().max() <= 20**0.5 + 1e-5
    assert gating_mlp.csgu._norm_of(x, torch.zeros(20)).isfinite().all()


def test_a_gating_mlp_starts_as_espnets(gating_mlp):
    gating_mlp.csgu.espnet_initialization_fn()
    assert gating_mlp.csgu.conv.weight.abs().max() < 1e-4
    assert torch.equal(gating_mlp.csgu.conv.bias, torch.ones(20))


@pytest.mark.parametrize("method", ["magnitude", "random", "blocks"])
def test_one_shot_baselines_leave_the_budget(gated, compact_of, method):
    from espnet_prune.baselines.one_shot import scores_of, settle
    from espnet_prune.projection import project
    from espnet_prune.sparsity import SparsityOptions, make_budget

    encoder = gated(num_blocks=4)
    options = SparsityOptions(kind="params+macs", target=0.6)
    budget = make_budget(options, encoder, 87)
    settle(encoder, budget, scores_of(method, encoder, budget, seed=1))
    found = project(encoder, budget)
    assert found.flipped == 0 and min(found.removed) >= 0.6
    encoder.set_masks(found.masks)
    whole = [block == encoder.architecture.blocks[0] for block in encoder.kept().blocks]
    assert any(whole) == (method == "blocks")
    x = torch.randn(2, 40, FEATURES), torch.tensor([40, 9])
    assert_same(encoder, compact_of(encoder, num_blocks=4), *x)


def test_weak_units_of_every_kind_go_first(gated):
    from espnet_prune.baselines.scores import magnitude, unit_weights
    from espnet_prune.layers.structures import structures

    encoder, weak = gated(), 3
    rows = {"unit_gate": ("w_1",), "qk_gate": ("linear_q", "linear_k", "linear_pos")}
    rows |= {"v_gate": ("linear_v",), "out_gate": ("linear_out", "channel_proj2")}
    columns = {"unit_gate": ("w_2", "channel_proj2"), "v_gate": ("linear_out",)}
    for layer in structures(encoder.encoders[0]):
        for name, gate in layer.named_children():
            if name not in rows:
                continue
            before = {key: w.clone() for key, w in layer.state_dict().items()}
            with torch.no_grad():
                for linear in rows[name]:
                    if hasattr(layer, linear):
                        getattr(layer, linear).weight[weak] = 0
                for linear in columns.get(name, ()):
                    if hasattr(layer, linear):
                        getattr(layer, linear).weight[:, weak] = 0
                if name == "unit_gate" and hasattr(layer, "csgu"):
                    pair = layer.channel_proj1[0].weight
                    pair[[weak, weak + len(gate)]] = 0
                    layer.csgu.conv.weight[weak] = 0
            assert not unit_weights(layer)[gate][weak].any()
            scores = magnitude(encoder, lambda group: 0.5)
            assert int(scores[gate].argmin()) == weak, name
            layer.load_state_dict(before)


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
    from espnet_prune.student import model_config

    kind = KINDS["e_branchformer"]
    kind.ours(FEATURES, **kind.sizes, layer_drop_rate=0.1, interctc_layer_idx=None)
    assert "layer_drop_rate is ignored" in caplog.text
    config = {"encoder": kind.name, "token_list": ["a"]}
    config["encoder_conf"] = {"layer_drop_rate": 0.1, "num_blocks": 2}
    assert model_config(config, "")["encoder_conf"] == {"num_blocks": 2}


def test_loaded_models_take_the_prunable_encoder(kind, dense_model):
    from espnet_prune.serving import load

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
    from espnet_prune.errors import InputError
    from espnet_prune.student import model_config

    with pytest.raises(InputError, match=f"encoder '{name}' cannot be pruned"):
        model_config({"encoder": name}, "exp/config.yaml")


@pytest.fixture(scope="module")
def dense_models(make_dense):
    """``dense_models(kind)``: directory of a random ESPnet model with its encoder."""

    @functools.cache
    def make(kind):
        rates = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
        return make_dense(encoder=kind.name, encoder_conf=kind.sizes | rates)

    return make


@pytest.fixture
def dense_model(kind, dense_models):
    return dense_models(kind)


def prune(python, dense, data_options, out, *options):
    recipe = out.parent / "recipe.yaml"
    recipe.write_text(
        "sparsity: {macs_seconds: 1.0}\ndistill: {layers: 2}\n"
        "optim_conf: {lr: 0.0005}\n"
        "batch_type: numel\nbatch_bins: 40000\nnum_workers: 0\nmax_epoch: 2\n"
        "num_att_plot: 0\nuse_matplotlib: false\nuse_tensorboard: false\n"
        "best_model_criterion: [[valid, sparsity_realised, max]]\n"
    )
    model = ["--model_config", dense / "config.yaml", "--model_file"]
    model += [dense / "model.pth", "--teacher_config", dense / "config.yaml"]
    model += ["--teacher_model", dense / "model.pth", "--output_dir", out]
    command = ["--phase", "prune", "--recipe", recipe, "--target", 0.5, *options]
    return python("-m", "espnet_prune.bin.prune_train", *command, *model, *data_options)


@pytest.mark.slow
def test_it_is_pruned_exported_and_decoded_by_stock_espnet(
    kind, python, dense_model, data_options, data_dir, tmp_path
):
    import soundfile
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_prune.export import export

    out = tmp_path / "pruned"
    result = prune(python, dense_model, data_options, out, "--kind", "params+macs")
    assert result.returncode == 0, result.stderr[-3000:]
    summary = export(out / "config.yaml", out / "latest.pth", tmp_path / "compact")
    assert min(summary["removed"].values()) >= 0.5
    assert summary["architecture"]["kind"] == kind.name
    decoder = Speech2Text(
        tmp_path / "compact/config.yaml", tmp_path / "compact/pruned.pth", beam_size=2
    )
    speech, _ = soundfile.read(data_dir / "utt03.wav", dtype="float32")
    assert isinstance(decoder(speech)[0][0], str)


@pytest.mark.parametrize(
    "kind, options, told",
    [
        (
            KINDS["transformer"],
            ("--kind", "latency"),
            "latency of an encoder 'transformer' cannot be measured",
        ),
        (
            KINDS["e_branchformer"],
            ("--kind", "params", "--method", "small"),
            "makes a small Conformer, the dense encoder is 'e_branchformer'",
        ),
    ],
    ids=str,
)
def test_what_is_for_conformers_only_is_refused(
    kind, python, dense_model, data_options, tmp_path, options, told
):
    result = prune(python, dense_model, data_options, tmp_path / "out", *options)
    assert result.returncode == 2 and told in result.stderr, result.stderr[-2000:]


def test_lower_precisions_are_refused(kind, dense_model):
    from espnet_prune.errors import InputError
    from espnet_prune.serving import load

    with pytest.raises(InputError, match=rf"its encoder \({kind}\) is not one"):
        load(dense_model / "config.yaml", dense_model / "model.pth", "int8")


def test_greedy_decoding_takes_it_one_by_one(dense_model, data_dir):
    import soundfile

    from espnet_prune.greedy import GreedyDecoder, collapse
    from espnet_prune.serving import load

    files = dense_model / "config.yaml", dense_model / "model.pth"
    model = load(*files).asr_model
    names = ("utt00", "utt05", "utt09")
    audio = [soundfile.read(data_dir / f"{n}.wav", dtype="float32")[0] for n in names]
    audio = [torch.from_numpy(samples) for samples in [*audio, audio[0][:600]]]
    *found, short = [ids for ids, _ in GreedyDecoder(model)(audio)]
    assert short == []
    with torch.no_grad():
        for samples, ids in zip(audio, found, strict=False):
            out, _ = model.encode(samples[None], torch.tensor([len(samples)]))
            assert ids == collapse(model.ctc.argmax(out)[0], model.blank_id)


def test_blocks_are_recorded_for_the_distillation(kind, make_model, speech_batch):
    from espnet_prune.distill import record, run_teacher

    conf = kind.sizes | NO_DROPOUT
    model = make_model(encoder=f"prunable_{kind}", encoder_conf=conf).eval()
    with record(model) as seen:
        model(**speech_batch())
    teacher = run_teacher(model, seen, decoder=False)
    assert seen.hidden.keys() == teacher.hidden.keys() == {0, 1}
    for index, hidden in teacher.hidden.items():
        torch.testing.assert_close(seen.hidden[index], hidden, rtol=1e-4, atol=1e-5)

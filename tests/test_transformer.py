"""The Transformer encoder: the three equalities, and what it refuses."""

import pytest
import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.architecture import Architecture
from espnet_prune.transformer import PrunableTransformerEncoder

FEATURES = 20
SIZES = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 2}
NO_DROPOUT = dict.fromkeys(
    ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0
)


@pytest.fixture
def pair(shake):
    """``pair(**sizes)``: ESPnet's encoder, and ours with its weights."""

    def make(**sizes):
        conf = SIZES | NO_DROPOUT | sizes
        stock = shake(TransformerEncoder(FEATURES, **conf))
        ours = PrunableTransformerEncoder(FEATURES, **conf)
        ours.load_state_dict(stock.state_dict())
        return stock, ours

    return make


@pytest.fixture
def gated(shake):
    def make(**conf):
        conf = SIZES | NO_DROPOUT | {"gates": {}} | conf
        return shake(PrunableTransformerEncoder(FEATURES, **conf)).eval()

    return make


def compact_of(gated):
    fixed = gated.fixed
    compact = PrunableTransformerEncoder(
        FEATURES,
        output_size=fixed.size,
        attention_heads=fixed.size // fixed.head_dim,
        architecture=gated.kept().to_dict(),
        **NO_DROPOUT,
    )
    compact.load_state_dict(gated.sliced_state(), strict=True)
    return compact.eval()


def assert_same(one, other, x, lengths):
    (first, hidden), lens, _ = one(x, lengths, return_all_hs=True)
    (second, others), other_lens, _ = other(x, lengths, return_all_hs=True)
    scale = first.abs().max()
    assert (first - second).abs().max() <= 1e-5 * scale
    assert lens.equal(other_lens)
    for a, b in zip(hidden, others, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(a.abs().max(), 1)


@given(
    heads=st.integers(1, 4), half=st.integers(1, 5), units=st.integers(1, 40),
    blocks=st.integers(1, 3), train=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_dense_is_espnets_encoder(heads, half, units, blocks, train):
    conf = {"output_size": 2 * half * heads, "attention_heads": heads}
    conf |= {"linear_units": units, "num_blocks": blocks} | NO_DROPOUT
    stock = TransformerEncoder(FEATURES, **conf).train(train)
    ours = PrunableTransformerEncoder(FEATURES, **conf).train(train)
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
        torch.manual_seed(3)
        outputs.append(encoder.train()(x, lengths)[0])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_gated_with_masks_is_compact(gated, random_masks, seed):
    torch.manual_seed(seed)
    encoder = gated()
    encoder.set_masks(random_masks(encoder))
    x = torch.randn(3, 61, FEATURES), torch.tensor([61, 40, 7])
    assert_same(encoder, compact_of(encoder), *x)


@pytest.mark.parametrize(
    "closed",
    ["self_attn.module", "self_attn.head", "self_attn.v_", "feed_forward.module", ""],
)
def test_gated_is_compact_where_a_kind_of_unit_is_gone(gated, open_masks, closed):
    encoder = gated()
    masks = open_masks(encoder)
    for name, mask in masks.items():
        if name.startswith("encoders.1") and closed in name:
            mask.zero_()
    encoder.set_masks(masks)
    assert_same(
        encoder,
        compact_of(encoder),
        torch.randn(2, 40, FEATURES),
        torch.tensor([40, 9]),
    )
    assert encoder.kept().blocks[1].conv == encoder.kept().blocks[0].ffn1 == 0


@pytest.mark.parametrize("compact", [False, True])
def test_cost_by_formula_is_cost_by_counting(gated, random_masks, compact):
    encoder = gated()
    if compact:
        encoder.set_masks(random_masks(encoder))
        encoder = compact_of(encoder)
    else:
        encoder = PrunableTransformerEncoder(FEATURES, **SIZES).eval()
    frames = 87
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


def test_architecture_of_another_kind_is_refused():
    conformer = Architecture.dense(16, 4, 24, 2).to_dict()
    with pytest.raises(ValueError, match="is of a conformer, not of a transformer"):
        PrunableTransformerEncoder(FEATURES, **SIZES, architecture=conformer)
    own = Architecture.dense(16, 4, 24, 2, "transformer")
    assert Architecture.from_dict(own.to_dict()) == own
    with pytest.raises(ValueError, match="kind must be one of"):
        Architecture.from_dict(own.to_dict() | {"kind": "rnn"})


@pytest.mark.parametrize(
    "option",
    [
        {"input_layer": "linear"},
        {"pos_enc_layer_type": "conv"},
        {"normalize_before": False},
        {"interctc_layer_idx": [1]},
        {"qk_norm": True},
        {"cnn_module_kernel": 31},
    ],
)
def test_options_that_it_does_not_compute_are_refused_by_name(option):
    (name,) = option
    with pytest.raises(ValueError, match=name):
        PrunableTransformerEncoder(FEATURES, **SIZES, **option)


@pytest.fixture(scope="module")
def dense_transformer(make_dense):
    conf = SIZES | {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    return make_dense(encoder="transformer", encoder_conf=conf)


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
def test_a_transformer_is_pruned_exported_and_decoded_by_stock_espnet(
    python, dense_transformer, data_options, data_dir, tmp_path
):
    import soundfile
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_prune.export import export

    out = tmp_path / "pruned"
    result = prune(
        python, dense_transformer, data_options, out, "--kind", "params+macs"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    summary = export(out / "config.yaml", out / "latest.pth", tmp_path / "compact")
    assert min(summary["removed"].values()) >= 0.5
    assert summary["architecture"]["kind"] == "transformer"
    decoder = Speech2Text(
        tmp_path / "compact/config.yaml", tmp_path / "compact/pruned.pth", beam_size=2
    )
    speech, _ = soundfile.read(data_dir / "utt03.wav", dtype="float32")
    assert isinstance(decoder(speech)[0][0], str)


@pytest.mark.parametrize(
    "options, told",
    [
        (("--kind", "latency"), "latency of a transformer cannot be measured"),
        (("--kind", "params", "--method", "small"), "a small Conformer"),
    ],
)
def test_what_is_for_conformers_only_is_refused(
    python, dense_transformer, data_options, tmp_path, options, told
):
    result = prune(python, dense_transformer, data_options, tmp_path / "out", *options)
    assert result.returncode == 2 and told in result.stderr, result.stderr[-2000:]


def test_lower_precisions_are_refused(dense_transformer):
    from espnet_prune.errors import InputError
    from espnet_prune.serving import load

    with pytest.raises(InputError, match=r"its encoder \(transformer\) is not one"):
        load(dense_transformer / "config.yaml", dense_transformer / "model.pth", "int8")


def test_greedy_decoding_takes_it_one_by_one(dense_transformer, data_dir):
    import soundfile

    from espnet_prune.greedy import GreedyDecoder, collapse
    from espnet_prune.serving import load

    files = dense_transformer / "config.yaml", dense_transformer / "model.pth"
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


def test_blocks_are_recorded_for_the_distillation(make_model, speech_batch):
    from espnet_prune.distill import record, run_teacher

    conf = SIZES | NO_DROPOUT
    model = make_model(encoder="prunable_transformer", encoder_conf=conf).eval()
    with record(model) as seen:
        model(**speech_batch())
    teacher = run_teacher(model, seen, decoder=False)
    assert seen.hidden.keys() == teacher.hidden.keys() == {0, 1}
    for index, hidden in teacher.hidden.items():
        torch.testing.assert_close(seen.hidden[index], hidden, rtol=1e-4, atol=1e-5)

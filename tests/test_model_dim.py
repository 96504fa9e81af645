"""Gates on the channels between the layers: one closes a channel in every layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.export.compact_dir import verify
from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.encoder import PrunableEncoder
from espnet_prune.families.espnet.layers.open_norm import gated_norm, open_norm
from espnet_prune.families.espnet.layers.residual import layer_norm
from espnet_prune.families.espnet.layers.spread import Spread
from espnet_prune.serving.fast.encoder import FastEncoder
from espnet_prune.training.distill import record

GATES = {"model_dim": True}
FRAMES = 400
SIZES = {"output_size": 64, "linear_units": 256, "num_blocks": 2}


def masked(encoder, masks):
    encoder.set_masks(masks)
    return encoder.eval()


def assert_same(gated, compact, x, lengths, tolerance=1e-5):
    with torch.no_grad():
        expected, olens, _ = gated.eval()(x, lengths)
        actual, own, _ = compact.eval()(x, lengths)
    assert torch.equal(olens, own) and expected.shape == actual.shape
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, atol=tolerance * scale, rtol=0)


def test_open_gates_change_nothing(make_encoder, open_masks, batch):
    gated, dense = make_encoder(gates=GATES), make_encoder()
    gated.load_state_dict(gated.state_dict() | dense.state_dict())
    assert_same(masked(gated, open_masks(gated)), dense, *batch())
    assert gated.kept().dims is None


@pytest.mark.parametrize("value", [0.0, 0.37])
def test_channels_are_sliced_exactly(
    make_encoder, open_masks, compact_of, batch, value
):
    gated = make_encoder(gates=GATES)
    masks = open_masks(gated)
    masks["dim_gate"][1::3] = value
    compact = compact_of(masked(gated, masks))
    assert compact.size == (11 if value == 0 else 16)
    assert compact.output_size() == 16
    assert_same(gated, compact, *batch())


@given(
    seed=st.integers(0, 2**31),
    unit_rate=st.floats(0.15, 1),
    module_rate=st.floats(0, 1),
    soft=st.booleans(),
    fine=st.booleans(),
)
@settings(max_examples=25)
def test_mixtures_of_all_gates_are_sliced_exactly(
    make_encoder, random_masks, compact_of, batch, seed, unit_rate, module_rate, soft,
    fine,
):  # fmt: skip
    gated = make_encoder(gates=GATES | {"fine_heads": fine}).double()
    masks = random_masks(gated, seed, unit_rate, module_rate, soft)
    compact = compact_of(masked(gated, masks)).double()
    compact.load_state_dict(gated.sliced_state(), strict=True)  # in double, too
    x, lengths = batch()
    assert_same(gated, compact, x.double(), lengths, 1e-9)


def test_fast_and_plain_forward_of_a_narrow_encoder_agree(
    make_encoder, random_masks, compact_of, batch
):
    gated = make_encoder(gates=GATES)
    compact = compact_of(masked(gated, random_masks(gated, 3))).eval()
    x, lengths = batch()
    with torch.no_grad():
        fast, hidden = compact(x, lengths, return_all_hs=True)[0]
        plain, own = PrunableEncoder.forward(compact, x, lengths, return_all_hs=True)[0]
        half = FastEncoder(*compact.layers, "bf16")(x, lengths)[0]
    torch.testing.assert_close(fast, plain)
    for one, other in zip(hidden, own, strict=True):
        assert one.shape[-1] == compact.output_size()
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(half, plain, atol=0.1, rtol=0.05)
    gone = ~compact.spread.source.lt(compact.size)
    assert gone.any() and not plain[..., gone].any() and plain[..., ~gone].any()


def test_outputs_are_where_they_were_in_the_dense_model():
    out = Spread((1, 2, 4), 5)(torch.tensor([[1.0, 2.0, 3.0]]))
    assert out.tolist() == [[0.0, 1.0, 2.0, 0.0, 3.0]]
    x = torch.randn(2, 5)
    assert Spread(None, 5)(x) is x
    with pytest.raises(ValueError, match="up to 5"):
        Spread((1, 5), 5)


def test_average_of_epochs_is_still_the_model(
    make_encoder, random_masks, compact_of, tmp_path
):
    """ESPnet's average adds integers up: where channels go must be no weight."""
    from espnet2.main_funcs.average_nbest_models import average_nbest_models
    from espnet2.train.reporter import Reporter

    gated = make_encoder(gates=GATES)
    compact = compact_of(masked(gated, random_masks(gated, 3)))
    assert compact.architecture.dims is not None
    reporter = Reporter()
    for epoch in (1, 2):
        torch.save(compact.state_dict(), tmp_path / f"{epoch}epoch.pth")
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"acc": float(epoch)})
            sub.next()
    average_nbest_models(tmp_path, reporter, [("valid", "acc", "max")], 2)
    state = torch.load(tmp_path / "valid.acc.ave_2best.pth")
    for key, value in compact.state_dict().items():
        if "num_batches_tracked" not in key:
            torch.testing.assert_close(state[key], value)
    assert not [key for key in state if "spread" in key]


def test_norm_sees_open_channels_only():
    norm, kept = layer_norm(6), torch.tensor([1.0, 0, 1, 1, 0, 1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 6)
    out = gated_norm(norm, x, kept)
    index = kept.nonzero().squeeze(1)
    expected = torch.nn.functional.layer_norm(
        x[..., index], (4,), norm.weight[index], norm.bias[index], norm.eps
    )
    torch.testing.assert_close(out[..., index], expected)
    assert not out[..., kept == 0].any()
    other = torch.where(kept > 0, x, 1e4 * torch.randn_like(x))
    torch.testing.assert_close(gated_norm(norm, other, kept), out)


def test_closed_channels_stay_within_the_norms_bounds():
    norm, x, kept = layer_norm(20), torch.randn(2, 9, 20), torch.zeros(20).bool()
    assert open_norm(norm, x, kept).isfinite().all()
    kept[5] = True  # its variance is 0
    assert open_norm(norm, x, kept).abs().max() <= 20**0.5 + 1e-5


@pytest.mark.parametrize("closed", [0, 2, 4, 5])
def test_gradient_of_the_norm_is_its_derivative(closed):
    norm = layer_norm(5).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    dims = torch.rand(5, dtype=torch.double) + 0.1
    dims[:closed] = 0

    def gated(x, weight, bias, some):
        values = torch.cat([dims[:closed], some])
        scaled = torch.nn.LayerNorm(5, eps=norm.eps).double()
        del scaled.weight, scaled.bias
        scaled.weight, scaled.bias = weight, bias
        return gated_norm(scaled, x, values)

    some = dims[closed:].clone().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in norm.parameters())
    assert torch.autograd.gradcheck(gated, (x, weight, bias, some))


def test_closed_gate_learns_from_what_it_would_let_through():
    norm, x = layer_norm(6), torch.randn(2, 3, 6)
    dims = torch.tensor([1.0, 0, 1, 1, 0, 1], requires_grad=True)
    grad = torch.randn(2, 3, 6)
    gated_norm(norm, x, dims).backward(grad)
    kept = dims.detach() > 0
    expected = (open_norm(norm, x, kept) * grad).sum((0, 1))
    torch.testing.assert_close(dims.grad, expected.detach())
    assert (dims.grad != 0).all()


def test_gates_of_the_model_dimension_get_a_gradient(make_encoder, batch):
    gated = make_encoder(gates=GATES).train()
    gated(*batch())[0].square().sum().backward()
    slope = gated.dim_gate.log_alpha.grad
    assert slope.isfinite().all() and (slope != 0).any()


def test_one_draw_serves_all_layers(make_encoder, batch):
    gated = make_encoder(gates=GATES | {"drop_rate_init": 0.5}).train()
    with torch.no_grad():
        gated.dim_gate.log_alpha.zero_()
        _, hidden = gated(*batch(), return_all_hs=True)[0]
    closed = [(x == 0).all((0, 1)) for x in hidden]
    assert closed[0].any() and not closed[0].all()
    assert all(torch.equal(closed[0], other) for other in closed)


def test_architecture_round_trips_and_bad_dims_are_refused():
    dense = Architecture.dense(16, 4, 32, 2).to_dict()
    assert "dims" not in dense
    narrow = Architecture.from_dict(dense | {"dims": [0, 3, 9]})
    assert narrow.size == 3 and Architecture.from_dict(narrow.to_dict()) == narrow
    for bad in ([], [3, 1], [1, 1], [-1, 2], [0.5], [False, True], 8, "8"):
        with pytest.raises(ValueError, match="dims must be"):
            Architecture.from_dict(dense | {"dims": bad})
    other = Architecture.dense(16, 4, 32, 2, "transformer").to_dict()
    with pytest.raises(ValueError, match="conformer only"):
        Architecture.from_dict(other | {"dims": [1, 2]})


@pytest.fixture
def student(make_model, student_options):
    options = student_options(kind="params+macs", target=0.75)
    options["encoder_conf"] = options["encoder_conf"] | {"gates": GATES}
    model = make_model(**options)
    torch.nn.init.zeros_(model.encoder.dim_gate.log_alpha)
    return model


def test_student_is_compared_through_a_projection(student, make_model, speech_batch):
    student.set_teacher(make_model(encoder="prunable_conformer"))
    student.sparsity.total_steps = 100
    loss, stats, _ = student(**speech_batch())
    loss.backward()
    assert student.projection.weight.grad.abs().sum() > 0
    assert student.encoder.dim_gate.log_alpha.grad.abs().sum() > 0
    assert stats["sparsity_expected"] > 0.3


def test_narrow_student_is_compared_where_its_channels_were(
    student, make_model, student_options, speech_batch, random_masks
):
    student.encoder.set_masks(random_masks(student.encoder, 2, module_rate=1.0))
    options = student_options(gated=False)
    kept = student.encoder.kept().to_dict()
    options["encoder_conf"] = options["encoder_conf"] | {"architecture": kept}
    compact = make_model(**options)
    compact.encoder.load_state_dict(student.encoder.sliced_state(), strict=True)
    assert compact.projection.weight.shape == (16, 16)
    assert verify(student, compact) < 1e-4
    student.sparsity.total_steps = 100
    student.eval(), compact.eval()
    seen = []
    for model in (student, compact):
        with record(model) as rec, torch.no_grad():
            model(**speech_batch() | {"speech": torch.ones(3, 8000).cumsum(1) / 8000})
        seen.append(rec.hidden[1])
    torch.testing.assert_close(*seen, atol=1e-4, rtol=1e-3)

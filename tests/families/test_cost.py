"""Cost by declaration is cost by counting, dense and compact, expected and kept."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.conditioning import lent
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import KINDS
from espnet_prune.measuring.cost import encoder_cost, rest_cost
from espnet_prune.pruning.cost import evaluate
from tests.fixtures.encoders import FEATURES
from tests.fixtures.gated import CASES, CONDITIONED, drawn_sizes, drawn_values

every = pytest.mark.parametrize("name", CASES)


def declared(gated, own, frames, tokens):
    terms, sums = gated.terms(frames, tokens), gated.layout.sums(own.double())
    return tuple(float(evaluate(terms[kind], sums)) for kind in ("params", "macs"))


@every
@given(
    data=st.data(), seed=st.integers(0, 10**6), frames=st.integers(0, 70),
    tokens=st.integers(1, 9), fine=st.booleans(), units=st.floats(0, 1),
    modules=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=10)
def test_declared_is_counted(name, data, seed, frames, tokens, fine, units, modules):
    """Of the dense module, and of what masks leave with heads equally wide."""
    sizes = data.draw(drawn_sizes(name))
    gated = CASES[name].make(seed, gates={"fine_heads": fine}, **sizes)
    lengths = gated.least + frames, tokens
    dense = declared(gated, gated.open(), *lengths)
    assert dense == gated.counted(gated.stock, *lengths)
    own = drawn_values(gated.layout, seed, units, modules, even=True)
    kept = declared(gated, own != 0, *lengths)
    assert kept == gated.counted(gated.compact(own), *lengths)


@every
def test_expected_cost_of_saturated_gates_is_that_of_what_is_kept(name):
    gated = CASES[name].make()
    own = (drawn_values(gated.layout, 1, even=True) != 0).double()
    gates = gated.gates()
    with torch.no_grad():
        gates.log_alpha.copy_(80 * own[gated.layout.learned] - 40)
        expected = gates.spread(gates.openness())
    for found, kept in zip(
        declared(gated, expected, 61, 6), declared(gated, own, 61, 6), strict=True
    ):
        assert found == pytest.approx(kept)


@every
@pytest.mark.parametrize("kind", ["params", "macs", "latency"])
def test_gradient_of_the_expected_cost_is_its_derivative(name, kind):
    gated = CASES[name].make(num_blocks=1, output_size=8, linear_units=5)
    terms, layout = gated.terms()[kind], gated.layout
    draw = torch.Generator().manual_seed(0)
    shape = len(layout.learned)
    openness = torch.rand(shape, generator=draw, dtype=torch.double).requires_grad_()

    def cost(openness):
        own = torch.ones(len(layout), dtype=torch.double)
        own = own.index_copy(0, layout.learned, openness)
        return evaluate(terms, layout.sums(layout.complete(own)))

    (slope,) = torch.autograd.grad(cost(openness), openness)
    step = 0.01 * torch.eye(shape, dtype=torch.double)
    with torch.no_grad():
        found = [(cost(openness + s) - cost(openness - s)) / 0.02 for s in step]
    torch.testing.assert_close(slope, torch.stack(found))
    assert (slope > 0).all() or kind == "latency"


def test_products_in_a_fused_kernel_count():
    """ESPnet 202611 has an option for one."""
    case = CASES["transformer"]
    plain = case.make(dtype=torch.float32).stock
    if "use_sdpa" not in inspect.signature(case.stock).parameters:
        pytest.skip("this ESPnet has no use_sdpa")
    fused = case.stock(FEATURES, **case.conf, use_sdpa=True)
    assert encoder_cost(fused, 61, FEATURES) == encoder_cost(plain, 61, FEATURES)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_models_cost_what_their_parts_do(kind, make_model):
    """With the decoder or without it, at the lengths of one utterance."""
    case = CASES[kind]
    model = make_model(encoder=kind, encoder_conf=case.conf).eval()
    encoder, decoder = model.encoder, model.decoder
    params = [
        sum(p.numel() for p in m.parameters()) for m in (encoder, decoder.decoders)
    ]
    time, lengths = 24, Lengths(100, FEATURES, 5)
    macs = []
    for module, x in (
        (encoder, (torch.randn(1, 100, FEATURES), torch.tensor([100]))),
        (decoder, (torch.randn(1, time, 16), torch.tensor([time]))),
    ):
        if module is decoder:
            x += torch.ones(1, 5, dtype=torch.long), torch.tensor([5])
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            module(*x)
        macs.append(flops.get_total_flops() / 2)
    macs[1] -= 5 * 16 * 7  # the output layer
    for also in (False, True):
        described = describe(model, KINDS[kind], GateOptions(), ["decoder"] * also)
        layout = described.layout
        sums = layout.sums(torch.ones(len(layout), dtype=torch.double))
        terms = described.terms(lengths)
        assert float(evaluate(terms["params"], sums)) == sum(params[: 1 + also])
        assert float(evaluate(terms["macs"], sums)) == sum(macs[: 1 + also])
        names = {p.partition(".")[0] for p in described.parameters}
        assert names == {"encoder", "decoder"} if also else {"encoder"}
        groups = {s.group for s in layout.structures} - {None}
        assert groups == KINDS[kind].groups | ({"decoder"} if also else set())


@pytest.mark.parametrize("name", CONDITIONED)
def test_what_conditions_counts_with_the_encoder_and_what_is_heard_with_the_head(
    name, make_model
):
    """Behind two blocks, for 7 tokens."""
    case, blocks = CASES[name], {"num_blocks": 3, "interctc_layer_idx": [1, 2]}
    kind, conf = case.kind.name, case.conf | blocks
    model = make_model(encoder=kind, encoder_conf=conf).eval()
    conf = conf | {"interctc_use_conditioning": False}
    plain = make_model(encoder=kind, encoder_conf=conf).eval()
    twice = 2 * 24 * 16 * 7
    lengths = Lengths(100, FEATURES, 5)
    own, before = (encoder_cost(m.encoder, 100, FEATURES) for m in (model, plain))
    assert own["params"] == before["params"] + 16 * 7 + 16
    assert own["macs"] == before["macs"] + twice
    head, before = (rest_cost(m, lengths) for m in (model, plain))
    assert head["params"] == before["params"]
    assert head["macs"] == before["macs"] + twice
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        x = torch.randn(1, 100, FEATURES), torch.tensor([100])
        model.encoder(*x, **lent(model))
    assert flops.get_total_flops() / 2 == own["macs"] + twice
    described = describe(model, KINDS[kind], GateOptions())
    terms, layout = described.terms(lengths), described.layout
    sums = layout.sums(layout.whole())
    assert {kind: float(evaluate(terms[kind], sums)) for kind in own} == own


def test_latency_is_the_sum_of_the_prices_of_what_is_left(make_model):
    model = make_model(encoder_conf=CASES["conformer"].conf)
    described = describe(model, KINDS["conformer"], GateOptions())
    layout = described.layout
    things = {s.thing for s in layout.structures if s.thing} | {"subsampling.filter"}
    things.add("subsampling.module")  # it stays, as the last norm does
    prices = {thing: 10.0**-i for i, thing in enumerate(sorted(things))}
    terms = described.terms(Lengths(100, FEATURES), prices)["latency"]
    own = (drawn_values(layout, 2, 0.5, 0.8) != 0).double()
    left = {s.name: own[layout.span(s.name)].sum() for s in layout.structures}
    expected = sum(prices[s.thing] * left[s.name] for s in layout.structures if s.thing)
    filters = left["encoder.embed.conv.0"] * left["encoder.embed.conv.2"]
    expected += prices["subsampling.filter"] * filters
    expected += prices["subsampling.module"] + prices["norm.module"]
    torch.testing.assert_close(evaluate(terms, layout.sums(own)), expected)

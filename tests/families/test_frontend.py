"""A self-supervised encoder in front of an ASR model: under gates, and cut."""

import copy

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet import frontend
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import KINDS
from espnet_prune.families.ssl.audio import RATE
from espnet_prune.measuring.cost import encoder_cost, rest_cost
from espnet_prune.measuring.ssl import count, count_macs
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.slicing import sliced
from tests.families.test_speech_encoders import CASES
from tests.fixtures.encoders import shaken
from tests.fixtures.gated import drawn_values

LENGTHS = torch.tensor([2400, 1701, 900])
CONFORMER = KINDS["conformer"]


@pytest.fixture(scope="module")
def models(make_model, make_frontend):
    """``models(case, seed, **sizes)``: an ESPnet model that hears by an encoder, in
    fp64, and what makes the compact one of values (unit,)."""

    def make(case, seed=0, **sizes):
        options = make_frontend(case, seed, **sizes)
        stock = shaken(make_model(**options)).double().eval()

        def compact(gated, layout, own):
            kept = architecture_of(layout, own)
            cut = frontend.architecture_of(layout, own)
            conf = frontend.self_contained(options["frontend_conf"], stock, cut)
            small = make_model(
                **options
                | {
                    "frontend_conf": yaml.safe_load(yaml.safe_dump(conf)),
                    "encoder": CONFORMER.compact,
                    "encoder_conf": options["encoder_conf"] | {"architecture": kept},
                }
            ).double()
            state = sliced(layout, gated.state_dict(), own)
            small.load_state_dict(state, strict=True)
            return small.train(gated.training)

        return stock, compact

    return make


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class Heard(nn.Module):
    """The states of the frontend, and what the encoder makes of them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, audio):
        states, _ = self.model.frontend.upstream(audio, LENGTHS)
        return [*states, self.model.encode(audio, LENGTHS)[0]]


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
@given(
    seed=st.integers(0, 99),
    gone=st.sampled_from([(0.3, 0.2), (0.6, 0.5), (0.9, 0.9), (0.0, 1.0)]),
    train=st.booleans(),
    heads=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 3),
    units=st.integers(1, 30),
    taps=st.sampled_from([1, 3, 8, 19]),
)
@settings(max_examples=2)
def test_gated_with_final_values_is_compact(
    case, models, seed, gone, train, heads, blocks, units, taps
):
    stock, compact = models(
        case, seed, num_attention_heads=heads, num_hidden_layers=blocks,
        intermediate_size=units, num_conv_pos_embeddings=taps,
    )  # fmt: skip
    model = copy.deepcopy(stock).train(train)
    layout = describe(model, CONFORMER, GateOptions(), ["frontend"]).layout
    audio = torch.randn(3, 2400, dtype=torch.double)

    def gated(own):
        replaced = layout.gated(tensors(model), own).items()
        inside = {f"model.{name}": tensor for name, tensor in replaced}
        return functional_call(Heard(model), inside, (audio,))

    assert_same(gated(layout.whole()), Heard(stock.train(train))(audio))
    own = drawn_values(layout, seed, *gone)
    assert_same(Heard(compact(model, layout, own))(audio), gated(own))


@pytest.mark.parametrize("case", CASES)
def test_cost_by_declaration_is_cost_by_counting(case, models):
    stock, compact = models(case)
    model = copy.deepcopy(stock)
    described = describe(model, CONFORMER, GateOptions(), ["frontend"])
    layout, lengths = described.layout, Lengths(120, 12, 5, 2400)
    terms = described.terms(lengths)
    beyond = {}
    for own in (layout.whole(), drawn_values(layout, 3, 0.6, 0.6, even=True)):
        small = compact(model, layout, own).float()
        heard_by = frontend.encoder_of(small)
        within = {"params": count(heard_by), "macs": count_macs(heard_by, 2400 / RATE)}
        behind, rest = encoder_cost(small.encoder, 120, 12), rest_cost(small, lengths)
        sums = layout.sums((own != 0).double())
        for kind in ("params", "macs"):
            inside = [term for term in terms[kind] if term.group == "frontend"]
            others = [term for term in terms[kind] if term.group != "frontend"]
            assert float(evaluate(inside, sums)) == within[kind]
            assert float(evaluate(others, sums)) == behind[kind]
            # All else is the same, whatever is cut.
            left = rest[kind] - within[kind]
            assert left == beyond.setdefault(kind, left) > 0
    groups = {s.group for s in layout.structures} - {None}
    assert groups == CONFORMER.groups | {"frontend"}

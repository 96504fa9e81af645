"""The latency table: it describes the machine, and can be a target."""

import copy
import json
import math
import timeit
from itertools import pairwise

import numpy as np
import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import GateOptions, SparsityOptions
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.encoders import PrunableConformerEncoder
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import KINDS
from espnet_prune.measuring import drawn_encoders, latency
from espnet_prune.measuring.drawn_encoders import ASREncoders, SpeechEncoders
from espnet_prune.measuring.latency import (
    MIN_R2,
    MIN_RANK,
    latency_table,
    read_or_measure,
    settle_table,
    table_of_run,
)
from espnet_prune.pruning.cost import things_of
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.projection import project
from espnet_prune.serving.inference import RuntimeEncoder
from espnet_prune.training.plan import make_budget
from tests.families.test_speech_encoders import CASES as SPEECH
from tests.fixtures.encoders import NEEDED, NO_DROPOUT
from tests.fixtures.gated import CASES, RUN

CONFORMER = KINDS["conformer"]
LENGTHS, SHORT = Lengths(600, 40), Lengths(100, 40)
ATTEMPTS = 4  # a neighbour of the machine may spoil a table, as its warning says
# Large enough that sizes matter on the clock.
CONF = NEEDED | NO_DROPOUT | {"num_blocks": 1, "output_size": 144, "linear_units": 768}


@pytest.fixture(scope="module")
def encoder():
    return ConformerEncoder(40, **CONF).eval()


def described(encoder, model_dim):
    """What can go of a model of it."""
    model = nn.Module()
    model.encoder = copy.deepcopy(encoder)
    return describe(model, CONFORMER, GateOptions(model_dim=model_dim))


def short(encoder):
    return ASREncoders(encoder, CONFORMER, SHORT)


def long(encoder):
    return ASREncoders(encoder, CONFORMER, LENGTHS)


def fits(table):
    return table["fit"]["r2"] > MIN_R2 and table["fit"]["rank"] > MIN_RANK


@pytest.mark.slow
def test_target_in_latency_is_met_and_felt_on_the_clock(encoder):
    """What no unit test shows: the prices are those of this machine.

    Channels between the layers can go, too: more has a price than without that.
    """
    subject = ASREncoders(encoder, CONFORMER, LENGTHS, model_dim=True)
    for _ in range(ATTEMPTS):
        if fits(table := latency_table(subject)):
            break
    assert fits(table)
    about, prices = described(encoder, model_dim=True), table["prices"]
    assert [*prices] == things_of(about.layout, about.things)
    assert all(price >= 0 for price in prices.values())

    def price(name):  # things that vary together may take one another's
        return sum(p for thing, p in prices.items() if thing.startswith(name))

    for name in ("ffn.", "convolution.", "subsampling.", "attention."):
        assert price(name) > 0
    options = SparsityOptions("latency", 0.5)
    budget = make_budget(options, about, LENGTHS, prices=prices)
    gates = Gates(about.layout, GateOptions(model_dim=True))
    with torch.no_grad():
        gates.log_alpha.normal_()
    projection = project(gates, budget)
    assert 0 <= projection.removed[0] - 0.5 <= projection.slack[0]
    sizes = architecture_of(about.layout, projection.values)
    assert "dims" in sizes
    compact = PrunableConformerEncoder(40, **CONF, architecture=sizes).eval()
    timed = [RuntimeEncoder(each, 40, "fp32") for each in (encoder, compact)]
    speech = torch.randn(1, LENGTHS.frames, 40), torch.tensor([LENGTHS.frames])
    for _ in range(ATTEMPTS):
        fastest = [float("inf")] * 2
        for i in [0, 1] * 10:
            once = timeit.timeit(lambda m=timed[i]: m(*speech), number=1)
            fastest[i] = min(fastest[i], once)
        if 0.4 < fastest[1] / fastest[0] < 0.6:
            break
    assert 0.4 < fastest[1] / fastest[0] < 0.6


@pytest.fixture
def drawn(monkeypatch):
    """``drawn(subject, number)``: so many counts, each beside the encoder drawn.

    Files for onnxruntime, which take seconds each, are not written.
    """
    written = []

    def write(encoder, *_):
        written.append(encoder)

    for name in ("write_graph", "write_speech_onnx"):
        monkeypatch.setattr(drawn_encoders, name, write)
    monkeypatch.setattr(drawn_encoders, "Runner", lambda file: print)

    def draw(subject, number):
        monkeypatch.setattr(drawn_encoders, "ENCODERS", number)
        counts = [count for count, _ in subject.points()]
        assert len(counts) == len(written) == number and counts[0] != counts[1]
        return [*zip(counts, written, strict=True)]

    return draw


def channels(module):
    """The channels of its convolutions, one after the other."""
    return [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", [n for n in RUN if n in (*KINDS, "conformer_by_8")])
def test_drawn_encoders_are_what_is_counted(name, drawn):
    stock = CASES[name].make(0, torch.float).stock.eval()
    kind = CASES[name].ours.kind
    for count, small in drawn(ASREncoders(stock, kind, Lengths(50, 20)), 5):
        assert count["subsampling.module"] == 1
        first, second, *third = channels(small.embed)
        assert count["subsampling.first"] == first
        assert count["subsampling.second"] == second
        assert count["subsampling.filter"] == first * second
        if name == "conformer_by_8":
            assert count["subsampling.second_filter"] == second * third[0]
        ffns = [m for m in small.modules() if hasattr(m, "w_1")]
        assert count.get("ffn.module", 0) == len(ffns)
        assert count.get("ffn.unit", 0) == sum(m.w_1.out_features for m in ffns)


def test_prices_are_of_what_was_counted_and_timed(monkeypatch):
    monkeypatch.setattr(drawn_encoders, "ENCODERS", 2)
    monkeypatch.setattr(drawn_encoders, "BLOCKS", 1)
    monkeypatch.setattr(latency, "ROUNDS", 2)
    stock = CASES["conformer"].make(0, torch.float).stock.eval()
    subject = ASREncoders(stock, CONFORMER, Lengths(50, 20), "int8")
    table = latency_table(subject)
    assert len(table["points"]) == 2
    for point in table["points"]:
        assert point["seconds"] > 0 and table["prices"].keys() == point["counts"].keys()


def test_times_that_are_sums_of_prices_give_them_back():
    draw = np.random.default_rng(0)
    prices = {"ffn.unit": 2e-8, "attention.head": 3e-5, "block": 1e-3}
    counts = [
        {"ffn.unit": draw.integers(1, 9999), "attention.head": draw.integers(1, 50),
         "block": draw.integers(1, 13)}
        for _ in range(12)
    ]  # fmt: skip
    seconds = np.array([sum(prices[k] * n for k, n in c.items()) for c in counts])
    found, fit = latency.fit_prices(counts, seconds)
    assert found == pytest.approx(prices)
    assert fit == pytest.approx({"r2": 1, "rank": 1, "largest_error": 0})
    # Times that follow from nothing that was counted.
    _, fit = latency.fit_prices(counts, draw.permutation(seconds))
    assert fit["r2"] < 0.5 and fit["largest_error"] > 0.5


def test_channels_between_the_layers_of_drawn_encoders_are_counted(drawn):
    stock = CASES["conformer"].make(0, torch.float).stock.eval()
    subject, found = ASREncoders(stock, CONFORMER, Lengths(50, 20), model_dim=True), []
    for count, small in drawn(subject, 6):
        found.append(dims := count["subsampling.module per channel"])
        (last,) = (m for m in small.embed.out.modules() if isinstance(m, nn.Linear))
        assert last.out_features == dims
        for thing in ("ffn.unit", "attention.v", "subsampling.second"):
            assert count[f"{thing} per channel"] == count[thing] * dims
    assert len({*found}) > 1 and max(found) <= stock.output_size()


@pytest.mark.parametrize("name", ["hubert_base", "wavlm_large"])
def test_drawn_speech_encoders_are_what_is_counted(name, drawn):
    torch.manual_seed(0)
    for count, small in drawn(SpeechEncoders(SPEECH[name](), 3000), 3):
        assert count["projection.module"] == 1
        layers = small.feature_extractor.conv_layers
        kept = [layer.conv.out_channels for layer in layers]
        assert kept == [count[f"convolution.{i}"] for i in range(3)]
        for i, pair in enumerate(pairwise(kept), 1):
            assert count[f"convolution.{i}.filter"] == math.prod(pair)
        ffns = [x for n, x in small.named_modules() if "intermediate_dense" in n]
        assert count["ffn.unit"] == sum(x.out_features for x in ffns)


@pytest.fixture
def measured(monkeypatch):
    """Count how often a table is measured."""
    calls = []

    def measure(subject):
        calls.append(subject)
        table = {"prices": {"x": len(calls)}}
        table["of"] = subject.told()
        return table | {"machine": {"cpu": latency.cpu()["cpu"]}}

    monkeypatch.setattr(latency, "latency_table", measure)
    return calls


def test_table_is_measured_once_per_machine_length_and_model(
    encoder, make_stock, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, short(encoder))
    assert read_or_measure(path, short(encoder))["prices"] == {"x": 1}
    assert read_or_measure(path, long(encoder))["prices"] == {"x": 2}
    other = json.loads(path.read_text())
    other["machine"]["cpu"] = "another"
    path.write_text(json.dumps(other))
    assert read_or_measure(path, long(encoder))["prices"] == {"x": 3}
    # A dense model that was trained anew in another size.
    assert read_or_measure(path, ASREncoders(make_stock(), CONFORMER, LENGTHS))[
        "prices"
    ] == {"x": 4}


def test_run_keeps_its_table_when_it_resumes_elsewhere(encoder, measured, tmp_path):
    run, shared = tmp_path / "run", tmp_path / "dense/latency.json"
    table_of_run(run, shared, short(encoder))
    settle_table(run)
    shared.unlink()
    assert table_of_run(run, shared, short(encoder))["prices"] == {"x": 1}
    assert len(measured) == 1
    # Another length needs another table; if that start is refused, the run's stays.
    assert table_of_run(run, shared, long(encoder))["prices"] == {"x": 2}
    settle_table(run, keep=False)
    assert [path.name for path in run.iterdir()] == ["latency.json"]
    assert table_of_run(run, shared, short(encoder))["prices"] == {"x": 1}
    assert len(measured) == 2


def test_table_is_shared_only_where_asked(encoder, measured, tmp_path):
    shared = tmp_path / "dense/latency.json"
    for run in ("a", "b"):
        assert table_of_run(tmp_path / run, shared, short(encoder))["prices"] == {
            "x": 1
        }
    assert table_of_run(tmp_path / "c", None, short(encoder))["prices"] == {"x": 2}
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")}
    waiting = {f"{run}/latency.new.json" for run in "abc"}
    assert files == waiting | {"dense/latency.json"}


def test_damaged_table_is_named(encoder, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("{")
    with pytest.raises(InputError, match="latency.json: is no latency table"):
        read_or_measure(path, short(encoder))

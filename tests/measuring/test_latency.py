"""The latency table: it describes the machine, can be repeated, and can be a target."""

import copy
import json
import timeit

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
from espnet_prune.measuring import latency
from espnet_prune.measuring.latency import (
    MIN_RANK,
    latency_table,
    read_or_measure,
    settle_table,
    table_of_run,
)
from espnet_prune.measuring.latency_layers import Beyond
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.projection import project
from espnet_prune.serving.inference import InferenceEncoder
from espnet_prune.training.plan import make_budget
from tests.fixtures.encoders import FEATURES, NEEDED, NO_DROPOUT, SIZES

LENGTHS, SHORT = Lengths(600, 40), Lengths(100, 40)
STAYING = ("subsampling.module", "norm.module")  # whatever goes
ATTEMPTS = 4  # a neighbour of the machine may spoil a table, as its warning says
# Large enough that sizes matter on the clock.
CONF = NEEDED | NO_DROPOUT | {"num_blocks": 1, "output_size": 144, "linear_units": 768}


@pytest.fixture(scope="module")
def encoder():
    return ConformerEncoder(40, **CONF).eval()


@pytest.fixture(scope="module")
def tables(encoder):
    return [latency_table(encoder, LENGTHS) for _ in range(2)]


def described(encoder, decoder=None):
    """What can go of a model of these."""
    model = nn.Module()
    model.encoder, model.decoder = copy.deepcopy([encoder, decoder])
    return describe(model, KINDS["conformer"], GateOptions(), decoder is not None)


def shares(about, table):
    """Seconds of the dense model that a table tells, and what share of them each group
    takes."""
    sums = about.layout.sums(about.layout.complete(torch.ones(len(about.layout))))
    terms = about.terms(LENGTHS, table["prices"])["latency"]
    whole, groups = float(evaluate(terms, sums)), {term.group for term in terms}
    return whole, {
        group: float(evaluate([t for t in terms if t.group == group], sums)) / whole
        for group in groups
    }


def projected(about, budget):
    """What a projection makes of gates that were drawn."""
    gates = Gates(about.layout, GateOptions())
    with torch.no_grad():
        gates.log_alpha.normal_()
    return project(gates, budget)


def out_of_order(table, groups):
    """Groups whose larger layers are not predicted, or not measured, slower."""
    found = {group for group in groups if table["fit"][group]["rank"] < MIN_RANK}
    points = {}
    for point in table["points"]:
        own = points.setdefault(next(iter(point["counts"])).rpartition(".")[0], [])
        own.append((sum(point["counts"].values()), point["seconds"]))
    return found | {g for g in groups if max(points[g])[1] <= min(points[g])[1]}


def test_larger_layers_are_predicted_and_measured_slower(encoder, tables):
    """Monotone enough: within a group, the order of the sizes is that of the times."""
    for _ in range(ATTEMPTS - 1):
        if not out_of_order(tables[0], tables[0]["fit"]):
            break
        tables[0] = latency_table(encoder, LENGTHS)
    assert not out_of_order(tables[0], tables[0]["fit"])
    # What is most of each submodule's work is not free.
    prices = tables[0]["prices"]
    for name in ("ffn.unit", "convolution.channel", "subsampling.filter"):
        assert prices[name] > 0
    # Heads and their dimensions are timed together: one may take another's price.
    assert sum(p for name, p in prices.items() if name.startswith("attention.")) > 0


def test_table_can_be_repeated(encoder, tables):
    """Two tables agree on what a whole encoder takes, and on each group's share."""
    about = described(encoder)
    for _ in range(ATTEMPTS - 1):
        first, second = (shares(about, table)[0] for table in tables)
        if first == pytest.approx(second, rel=0.2):
            break
        # A slow spell falls on one of the tables as a whole.
        tables[first < second] = latency_table(encoder, LENGTHS)
    (first, own), (second, other) = (shares(about, table) for table in tables)
    assert first == pytest.approx(second, rel=0.2)
    assert own == pytest.approx(other, abs=0.1)


def test_target_in_latency_is_met_and_felt_on_the_clock(encoder, tables):
    """Prices sum to less than an encoder takes: half of them is not half its time."""
    about, prices = described(encoder), tables[0]["prices"]
    options = SparsityOptions("latency", 0.5)
    projection = projected(about, make_budget(options, about, LENGTHS, prices=prices))
    assert 0 <= projection.removed[0] - 0.5 <= projection.slack[0]
    sizes = architecture_of(about.layout, projection.values)
    (block,), (first, second) = sizes["blocks"], sizes["subsampling"]
    heads = block["heads"]
    left = {
        "attention.head": heads,
        "attention.qk": heads * block["qk_dim"],
        "attention.v": heads * block["v_dim"],
        "convolution.channel": block["conv"],
        "ffn.unit": block["ffn1"] + block["ffn2"],
        "ffn.module": (block["ffn1"] > 0) + (block["ffn2"] > 0),
        "attention.module": heads > 0,
        "convolution.module": block["conv"] > 0,
        "subsampling.module": 1,
        "subsampling.first": first,
        "subsampling.second": second,
        "subsampling.filter": first * second,
        "norm.module": 2,
    }
    seconds = sum(number * prices[thing] for thing, number in left.items())
    whole, _ = shares(about, tables[0])
    assert seconds == pytest.approx((1 - projection.removed[0]) * whole)
    compact = PrunableConformerEncoder(40, **CONF, architecture=sizes).eval()
    timed = [InferenceEncoder(each, 40, "fp32") for each in (encoder, compact)]
    speech = torch.randn(1, LENGTHS.frames, 40), torch.tensor([LENGTHS.frames])
    for _ in range(ATTEMPTS):
        fastest = [float("inf")] * 2
        for i in [0, 1] * 10:
            once = timeit.timeit(lambda m=timed[i]: m(*speech), number=1)
            fastest[i] = min(fastest[i], once)
        if fastest[1] < 0.7 * fastest[0]:
            break
    assert fastest[1] < 0.7 * fastest[0]


@pytest.fixture(scope="module")
def whole(make_model):
    """A model, and its table. Much of its time is that of units, which can go."""
    sizes = SIZES | {"linear_units": 2048, "num_blocks": 3}
    model = make_model(encoder_conf=NEEDED | sizes).eval()
    lengths, beyond = Lengths(600, FEATURES, 6), Beyond(model, 8000, 6, True)
    return model, lengths, latency_table(model.encoder, lengths, beyond)


def test_every_thing_has_a_price_that_is_counted(whole):
    model, _, table = whole
    about = described(model.encoder, model.decoder)
    things = {s.thing for s in about.layout.structures if s.thing}
    assert any(thing.startswith("decoder.source.") for thing in things)
    assert table["prices"].keys() == things | {*STAYING, "subsampling.filter"}
    assert all(price >= 0 for price in table["prices"].values())
    sums = torch.zeros(len(about.layout.structures))
    nothing = evaluate(about.terms(LENGTHS, table["prices"])["latency"], sums)
    staying = sum(table["prices"][name] for name in STAYING)
    assert float(nothing) == pytest.approx(staying)


def test_tokens_are_decoded_one_after_the_other(whole):
    model, lengths, table = whole
    more = latency_table(model.encoder, lengths, Beyond(model, 8000, 60, True))
    assert more["beyond"] > 2 * table["beyond"]
    for group in ("self", "source", "ffn"):
        own, other = (
            sum(
                p["seconds"]
                for p in t["points"]
                if f"decoder.{group}.module" in p["counts"]
            )
            for t in (table, more)
        )
        assert other > 3 * own


def test_larger_decoder_layers_are_predicted_slower(make_model):
    """Of layers large enough that sizes matter on the clock."""
    sizes = {"attention_heads": 4, "num_blocks": 1}
    model = make_model(
        encoder_conf=NEEDED | sizes | {"output_size": 256, "linear_units": 64},
        decoder_conf=sizes | {"linear_units": 2048},
    )
    layers = {"decoder.source", "decoder.ffn"}
    for _ in range(ATTEMPTS):
        lengths, beyond = Lengths(1000, FEATURES, 6), Beyond(model, 8000, 6, True)
        table = latency_table(model.encoder, lengths, beyond)
        if not out_of_order(table, layers):
            break
    assert not out_of_order(table, layers)


def test_latency_of_the_whole_model_can_be_the_target(whole):
    model, lengths, table = whole
    options = SparsityOptions("latency", 0.1, "model", macs_tokens=6)
    about, rest = described(model.encoder, model.decoder), {"latency": table["beyond"]}
    budget = make_budget(options, about, lengths, rest, table["prices"])
    (constraint,) = budget.constraints
    assert constraint.name == "model"
    # Frontend, CTC, embedding and output layer cannot go.
    speech = torch.randn(1, 8000), torch.tensor([8000])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = timeit.repeat(lambda: model._extract_feats(*speech), number=1, repeat=20)
    torch.set_num_threads(threads)
    assert min(seconds) / 2 < constraint.fixed < constraint.dense
    projection = projected(about, budget)
    assert 0 <= projection.removed[0] - 0.1 <= projection.slack[0]


def test_state_of_a_recurrent_decoder_is_its_own(make_model):
    model = make_model(decoder="rnn", decoder_conf={"hidden_size": 8})
    table = latency_table(model.encoder, SHORT, Beyond(model, 8000, 3))
    assert table["beyond"] > 0


@pytest.fixture
def measured(monkeypatch):
    """Count how often a table is measured."""
    calls = []

    def measure(encoder, lengths, beyond=None):
        calls.append(lengths)
        table = {"prices": {"x": len(calls)}, "beyond": None}
        table["of"] = latency.subject(encoder, lengths, beyond)
        return table | {"machine": {"cpu": latency.cpu()["cpu"]}}

    monkeypatch.setattr(latency, "latency_table", measure)
    return calls


def test_table_is_measured_once_per_machine_length_and_model(
    encoder, make_stock, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, SHORT)
    assert read_or_measure(path, encoder, SHORT)["prices"] == {"x": 1}
    assert read_or_measure(path, encoder, LENGTHS)["prices"] == {"x": 2}
    other = json.loads(path.read_text())
    other["machine"]["cpu"] = "another"
    path.write_text(json.dumps(other))
    assert read_or_measure(path, encoder, LENGTHS)["prices"] == {"x": 3}
    # A dense model that was trained anew in another size.
    assert read_or_measure(path, make_stock(), LENGTHS)["prices"] == {"x": 4}


def test_table_lacks_what_is_beyond_the_encoder_until_asked(
    encoder, make_model, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, SHORT)
    model = make_model()
    for beyond in (
        Beyond(model, 800, tokens=5),
        Beyond(model, 800, tokens=7),
        Beyond(model, 800, tokens=7, pruned=True),
    ):
        before = len(measured)
        table = read_or_measure(path, encoder, SHORT, beyond)
        assert len(measured) == before + 1
        assert table["of"]["tokens"] == beyond.tokens
        # It serves those who ask for less, too.
        for less in (None, beyond):
            read_or_measure(path, encoder, SHORT, less)
        assert len(measured) == before + 1


def test_run_keeps_its_table_when_it_resumes_elsewhere(encoder, measured, tmp_path):
    run, shared = tmp_path / "run", tmp_path / "dense/latency.json"
    table_of_run(run, shared, encoder, SHORT)
    settle_table(run)
    shared.unlink()
    assert table_of_run(run, shared, encoder, SHORT)["prices"] == {"x": 1}
    assert len(measured) == 1
    # Another length needs another table; if that start is refused, the run's stays.
    assert table_of_run(run, shared, encoder, LENGTHS)["prices"] == {"x": 2}
    settle_table(run, keep=False)
    assert [path.name for path in run.iterdir()] == ["latency.json"]
    assert table_of_run(run, shared, encoder, SHORT)["prices"] == {"x": 1}
    assert len(measured) == 2


def test_table_is_shared_only_where_asked(encoder, measured, tmp_path):
    shared = tmp_path / "dense/latency.json"
    for run in ("a", "b"):
        assert table_of_run(tmp_path / run, shared, encoder, SHORT)["prices"] == {
            "x": 1
        }
    assert table_of_run(tmp_path / "c", None, encoder, SHORT)["prices"] == {"x": 2}
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")}
    waiting = {f"{run}/latency.new.json" for run in "abc"}
    assert files == waiting | {"dense/latency.json"}


def test_damaged_table_is_named(encoder, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("{")
    with pytest.raises(InputError, match="latency.json: is no latency table"):
        read_or_measure(path, encoder, SHORT)


def test_threads_are_left_as_they_were(encoder):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        latency_table(encoder, Lengths(50, 40), threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

"""The latency table: it describes the machine, can be repeated, and can be a target."""

import json
import timeit

import pytest
import torch
from espnet_prune.families.espnet.layers.cost import group_of, total
from espnet_prune.families.espnet.layers.subsampling import halved
from espnet_prune.pruning.sparsity import SparsityOptions, make_budget

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.decoder import (
    PrunableTransformerDecoder,
    decoder_counts,
)
from espnet_prune.measuring import latency
from espnet_prune.measuring.latency import (
    MIN_RANK,
    latency_table,
    read_or_measure,
    settle_table,
    table_of_run,
)
from espnet_prune.measuring.latency_layers import Beyond
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.projection import project

FRAMES = 600
ATTEMPTS = 4  # a neighbour of the machine may spoil a table, as its warning says


@pytest.fixture(scope="module")
def encoder():
    """Large enough that sizes matter on the clock."""
    from espnet_prune.families.espnet.conformer import PrunableConformerEncoder

    sizes = {"output_size": 144, "linear_units": 768, "num_blocks": 1}
    conf = {"macaron_style": True, "rel_pos_type": "latest", "gates": {}}
    return PrunableConformerEncoder(40, **sizes, **conf).eval()


@pytest.fixture(scope="module")
def tables(encoder):
    return [latency_table(encoder, FRAMES) for _ in range(2)]


def test_every_count_of_an_encoder_has_a_price(encoder, tables):
    prices = tables[0]["prices"]
    assert prices.keys() == encoder.prices(FRAMES).keys()
    # What is most of each submodule's work is not free.
    for name in ("ffn.unit", "convolution.channel", "subsampling.filter"):
        assert prices[name] > 0
    # Heads and their dimensions are timed together: one may take another's price.
    attention = [p for name, p in prices.items() if name.startswith("attention.")]
    assert sum(attention) > 0


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
        tables[0] = latency_table(encoder, FRAMES)
    assert not out_of_order(tables[0], tables[0]["fit"])


def test_table_can_be_repeated(encoder, tables):
    """Two tables agree on what a whole encoder takes, and on each group's share."""
    counts = encoder.architecture.counts()
    for _ in range(ATTEMPTS - 1):
        first, second = (total(counts, table["prices"]) for table in tables)
        if first == pytest.approx(second, rel=0.2):
            break
        # A slow spell falls on one of the tables as a whole.
        tables[first < second] = latency_table(encoder, FRAMES)
    first, second = (total(counts, table["prices"]) for table in tables)
    assert first == pytest.approx(second, rel=0.2)
    shares = [
        {
            group: total(
                {n: c for n, c in counts.items() if group_of(n) == group}, t["prices"]
            )
            / total(counts, t["prices"])
            for group in map(group_of, counts)
        }
        for t in tables
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_latency_can_be_the_target(encoder, tables):
    options = SparsityOptions("latency", 0.5)
    budget = make_budget(options, encoder, FRAMES, latency=tables[0]["prices"])
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            gate.log_alpha.copy_(torch.randn(len(gate)))
    projection = project(encoder, budget)
    assert 0 <= projection.removed[0] - 0.5 <= projection.slack[0]
    encoder.set_masks(projection.masks)
    counts = encoder.kept().counts()
    encoder.set_masks(None)
    prices, dense = tables[0]["prices"], encoder.architecture.counts()
    assert total(counts, prices) <= 0.5 * total(dense, prices) * (1 + 1e-6)


def test_target_in_latency_is_felt_on_the_clock(encoder, tables, compact_of):
    """Prices sum to less than an encoder takes: half of them is not half its time."""
    options = SparsityOptions("latency", 0.5)
    budget = make_budget(options, encoder, FRAMES, latency=tables[0]["prices"])
    gates = gates_of(encoder)
    with torch.no_grad():
        for gate in gates.values():
            gate.log_alpha.copy_(torch.randn(len(gate)))
    timed = []
    for masks in ({n: torch.ones(len(g)) for n, g in gates.items()}, None):
        encoder.set_masks(masks or project(encoder, budget).masks)
        timed.append(compact_of(encoder).eval())
    encoder.set_masks(None)
    speech = torch.randn(1, FRAMES, 40), torch.tensor([FRAMES])
    for _ in range(ATTEMPTS):
        fastest = [float("inf")] * 2
        with torch.inference_mode():
            for i in [0, 1] * 10:
                once = timeit.timeit(lambda m=timed[i]: m(*speech), number=1)
                fastest[i] = min(fastest[i], once)
        if fastest[1] < 0.7 * fastest[0]:
            break
    assert fastest[1] < 0.7 * fastest[0]


@pytest.fixture
def measured(monkeypatch):
    """Count how often a table is measured."""
    calls = []

    def measure(encoder, frames, beyond=None):
        calls.append(frames)
        table = {"prices": {"x": len(calls)}, "beyond": None}
        table["of"] = latency.subject(encoder, frames, beyond)
        return table | {"machine": {"cpu": latency.cpu()["cpu"]}}

    monkeypatch.setattr(latency, "latency_table", measure)
    return calls


def test_tables_know_nothing_of_sizes_that_came_later(encoder):
    asked = latency.subject(encoder, 100, None)
    sizes = {"features", "size", "head_dim", "kernel_size", "subsampling", "blocks"}
    assert asked["encoder"].keys() == sizes


def test_table_is_measured_once_per_machine_length_and_model(
    encoder, make_encoder, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, 100)
    assert read_or_measure(path, encoder, 100)["prices"] == {"x": 1}
    assert read_or_measure(path, encoder, 200)["prices"] == {"x": 2}
    other = json.loads(path.read_text())
    other["machine"]["cpu"] = "another"
    path.write_text(json.dumps(other))
    assert read_or_measure(path, encoder, 200)["prices"] == {"x": 3}
    # A dense model that was trained anew in another size.
    assert read_or_measure(path, make_encoder(gates={}), 200)["prices"] == {"x": 4}


def test_table_lacks_what_is_beyond_the_encoder_until_asked(
    encoder, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, 100)
    decoder = PrunableTransformerDecoder(7, 96, num_blocks=1, gates={})
    for beyond in (
        Beyond(None, 800, tokens=5),
        Beyond(None, 800, tokens=7),
        Beyond(None, 800, tokens=7, decoder=decoder),
    ):
        before = len(measured)
        table = read_or_measure(path, encoder, 100, beyond)
        assert len(measured) == before + 1
        assert table["of"]["tokens"] == beyond.tokens
        # It serves those who ask for less, too.
        for less in (None, beyond):
            read_or_measure(path, encoder, 100, less)
        assert len(measured) == before + 1


@pytest.fixture(scope="module")
def whole(make_model, make_encoder):
    """A model, its encoder and decoder under gates, and its table."""
    model = make_model()
    # Much of its time must be that of units, which can go.
    encoder = make_encoder(gates={}, linear_units=2048, num_blocks=3)
    sizes = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    size = encoder.output_size()
    decoder = PrunableTransformerDecoder(model.vocab_size, size, **sizes, gates={})
    table = latency_table(encoder, FRAMES, Beyond(model, 8000, 6, decoder))
    return model, encoder, decoder, table


def test_model_beyond_its_encoder_has_a_price(whole):
    model, encoder, decoder, table = whole
    own = {n: p for n, p in table["prices"].items() if n.startswith("decoder.")}
    assert own.keys() == decoder.prices(6, halved(halved(FRAMES))).keys()
    assert all(price >= 0 for price in own.values())
    assert {"decoder.self", "decoder.source", "decoder.ffn"} <= table["fit"].keys()
    # A pass through the decoder for every token.
    more = latency_table(encoder, FRAMES, Beyond(model, 8000, 60, decoder))
    assert more["beyond"] > 2 * table["beyond"]
    counts = decoder_counts(decoder.architecture)
    assert total(counts, more["prices"]) > 3 * total(counts, table["prices"])


def test_larger_decoder_layers_are_predicted_slower(make_encoder, make_model):
    """Of layers large enough that sizes matter on the clock."""
    decoder = PrunableTransformerDecoder(
        7, 256, attention_heads=4, linear_units=2048, num_blocks=1, gates={}
    )
    beyond = Beyond(make_model(), 8000, 6, decoder)
    layers = {"decoder.source", "decoder.ffn"}
    for _ in range(ATTEMPTS):
        table = latency_table(make_encoder(gates={}), 1000, beyond)
        if not out_of_order(table, layers):
            break
    assert not out_of_order(table, layers)


def test_latency_of_the_whole_model_can_be_the_target(whole):
    model, encoder, decoder, table = whole
    both = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    options = SparsityOptions("latency", 0.1, "model", macs_tokens=6)
    rest = {"latency": table["beyond"]}
    budget = make_budget(options, encoder, FRAMES, rest, table["prices"], decoder)
    (constraint,) = budget.constraints
    assert constraint.name == "model"
    # Frontend, CTC, embedding and output layer cannot go.
    speech = torch.randn(1, 8000), torch.tensor([8000])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = timeit.repeat(lambda: model._extract_feats(*speech), number=1, repeat=20)
    torch.set_num_threads(threads)
    assert min(seconds) / 2 < constraint.fixed < constraint.dense
    projection = project(both, budget)
    assert 0 <= projection.removed[0] - 0.1 <= projection.slack[0]


def test_state_of_a_recurrent_decoder_is_its_own(make_model, make_encoder):
    model = make_model(decoder="rnn", decoder_conf={"hidden_size": 8})
    table = latency_table(make_encoder(gates={}), 100, Beyond(model, 8000, 3))
    assert table["beyond"] > 0


def test_run_keeps_its_table_when_it_resumes_elsewhere(encoder, measured, tmp_path):
    run, shared = tmp_path / "run", tmp_path / "dense/latency.json"
    table_of_run(run, shared, encoder, 100)
    settle_table(run)
    shared.unlink()
    assert table_of_run(run, shared, encoder, 100)["prices"] == {"x": 1}
    assert len(measured) == 1
    # Another length needs another table; if that start is refused, the run's stays.
    assert table_of_run(run, shared, encoder, 50)["prices"] == {"x": 2}
    settle_table(run, keep=False)
    assert table_of_run(run, shared, encoder, 100)["prices"] == {"x": 1}
    assert len(measured) == 2


def test_table_is_shared_only_where_asked(encoder, measured, tmp_path):
    shared = tmp_path / "dense/latency.json"
    for run in ("a", "b"):
        assert table_of_run(tmp_path / run, shared, encoder, 100)["prices"] == {"x": 1}
    assert table_of_run(tmp_path / "c", None, encoder, 100)["prices"] == {"x": 2}
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")}
    waiting = {f"{run}/latency.new.json" for run in "abc"}
    assert files == waiting | {"dense/latency.json"}


def test_damaged_table_is_named(encoder, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("{")
    with pytest.raises(InputError, match="latency.json: is no latency table"):
        read_or_measure(path, encoder, 100)


def test_threads_are_left_as_they_were(encoder):
    before = torch.get_num_threads()
    latency_table(encoder, 50, threads=1)
    assert torch.get_num_threads() == before

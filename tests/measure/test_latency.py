"""The latency table: it describes the machine, can be repeated, and can be a target."""

import json

import pytest
import torch

from espnet_prune.decoder import PrunableTransformerDecoder
from espnet_prune.errors import InputError
from espnet_prune.gates import gates_of
from espnet_prune.layers.cost import group_of, total
from espnet_prune.layers.subsampling import halved
from espnet_prune.measure import latency
from espnet_prune.measure.latency import latency_table, read_or_measure, table_of_run
from espnet_prune.measure.latency_layers import Beyond
from espnet_prune.projection import project
from espnet_prune.sparsity import SparsityOptions, make_budget

FRAMES = 600


@pytest.fixture(scope="module")
def encoder():
    """Large enough that sizes matter on the clock."""
    from espnet_prune.encoder import PrunableConformerEncoder

    sizes = {"output_size": 96, "linear_units": 384, "num_blocks": 1}
    conf = {"macaron_style": True, "rel_pos_type": "latest", "gates": {}}
    return PrunableConformerEncoder(40, **sizes, **conf).eval()


@pytest.fixture(scope="module")
def tables(encoder):
    return [latency_table(encoder, FRAMES) for _ in range(2)]


def test_every_count_of_an_encoder_has_a_price(encoder, tables):
    prices = tables[0]["prices"]
    assert prices.keys() == encoder.prices(FRAMES).keys()
    assert all(price >= 0 for price in prices.values())
    # What is most of each submodule's work is not free.
    for name in ("ffn.unit", "convolution.channel", "subsampling.filter"):
        assert prices[name] > 0


def test_larger_layers_are_predicted_and_measured_slower(tables):
    """Monotone enough: within a group, the order of the sizes is that of the times."""
    for group, fit in tables[0]["fit"].items():
        assert fit["rank"] > 0.7, group
    for table in tables:
        whole = {}
        for point in table["points"]:
            own = whole.setdefault(group_of(next(iter(point["counts"]))), [])
            own.append((sum(point["counts"].values()), point["seconds"]))
        for group, pairs in whole.items():
            assert max(pairs)[1] > min(pairs)[1], group


def test_table_can_be_repeated(encoder, tables):
    """Two tables agree on what a whole encoder takes, half of it, and each group."""
    counts = encoder.architecture.counts()
    first, second = (total(counts, table["prices"]) for table in tables)
    assert first == pytest.approx(second, rel=0.35)
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
    assert shares[0] == pytest.approx(shares[1], abs=0.15)


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


@pytest.fixture
def measured(monkeypatch):
    """Count how often a table is measured."""
    calls = []

    def measure(encoder, frames, beyond=None):
        calls.append(frames)
        table = {"prices": {"x": len(calls)}, "frames": frames}
        table["beyond"] = beyond and {"seconds": 1.0, "tokens": beyond.tokens}
        if beyond and beyond.decoder:
            table["prices"]["decoder.ffn.unit"] = 1.0
        return table | {"machine": {"cpu": latency.cpu()["cpu"]}}

    monkeypatch.setattr(latency, "latency_table", measure)
    return calls


def test_table_is_measured_once_per_machine_and_length(encoder, measured, tmp_path):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, 100)
    assert read_or_measure(path, encoder, 100)["prices"] == {"x": 1}
    assert read_or_measure(path, encoder, 200)["prices"] == {"x": 2}
    other = json.loads(path.read_text())
    other["machine"]["cpu"] = "another"
    path.write_text(json.dumps(other))
    assert read_or_measure(path, encoder, 200)["prices"] == {"x": 3}


def test_table_lacks_what_is_beyond_the_encoder_until_asked(
    encoder, measured, tmp_path
):
    path = tmp_path / "latency.json"
    read_or_measure(path, encoder, 100)
    for beyond in (
        Beyond(None, 800, tokens=5),
        Beyond(None, 800, tokens=7),
        Beyond(None, 800, tokens=7, decoder="gated"),
    ):
        before = len(measured)
        table = read_or_measure(path, encoder, 100, beyond)
        assert len(measured) == before + 1
        assert table["beyond"]["tokens"] == beyond.tokens
        # It serves those who ask for less, too.
        for less in (None, beyond):
            read_or_measure(path, encoder, 100, less)
        assert len(measured) == before + 1


@pytest.fixture(scope="module")
def whole(make_model, make_encoder):
    """A model, its encoder and decoder under gates, and its table."""
    model, encoder = make_model(), make_encoder(gates={})
    size = encoder.output_size()
    sizes = {"attention_heads": 2, "linear_units": 64, "num_blocks": 2}
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
    more = latency_table(encoder, FRAMES, Beyond(model, 8000, 60))
    assert more["beyond"]["tokens"] == 60
    assert more["beyond"]["seconds"] > 2 * table["beyond"]["seconds"]


def test_latency_of_the_whole_model_can_be_the_target(whole):
    _, encoder, decoder, table = whole
    both = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    options = SparsityOptions("latency", 0.2, "model", macs_tokens=6)
    rest = {"latency": table["beyond"]["seconds"]}
    budget = make_budget(options, encoder, FRAMES, rest, table["prices"], decoder)
    (constraint,) = budget.constraints
    assert constraint.name == "model"
    # Frontend, CTC and what is left of the decoder cannot go.
    assert 0 <= constraint.fixed < constraint.dense
    projection = project(both, budget)
    assert 0 <= projection.removed[0] - 0.2 <= projection.slack[0]


def test_run_keeps_its_table_when_it_resumes_elsewhere(encoder, measured, tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    table_of_run(run, model, encoder, 100)
    (model / "latency.json").unlink()
    assert table_of_run(run, model, encoder, 100)["prices"] == {"x": 1}
    assert len(measured) == 1
    # Another length needs another table.
    assert table_of_run(run, model, encoder, 50)["prices"] == {"x": 2}


def test_damaged_table_is_named(encoder, tmp_path):
    path = tmp_path / "latency.json"
    path.write_text("{")
    with pytest.raises(InputError, match="latency.json: is no latency table"):
        read_or_measure(path, encoder, 100)


def test_threads_are_left_as_they_were(encoder):
    before = torch.get_num_threads()
    latency_table(encoder, 50, threads=1)
    assert torch.get_num_threads() == before

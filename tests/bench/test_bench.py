"""The bench of encoders: its rows, its budget, its memory, its clock."""

import json
from dataclasses import replace

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.bench import results as bench_results
from espnet_prune.bench import timing as measure
from espnet_prune.bench.systems import SIZES, compiled, systems
from espnet_prune.bench.timing import gemm_rate, time_systems
from espnet_prune.cli import bench
from espnet_prune.serving.inference import PRECISIONS

CPU = torch.device("cpu")
KEYS = {  # of the documented interface
    "model", "system", "precision", "target", "threads", "seconds", "batch",
    "median_s", "iqr_s", "first_s", "rtf", "macs", "efficiency", "peak_bytes",
}  # fmt: skip
NUMBERS = {"seconds", "rtf", "median_s", "iqr_s", "first_s", "efficiency"}
WHOLE = {"threads", "batch", "macs"}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    """Files for onnxruntime take seconds a block."""
    tiny = replace(SIZES["tiny"], num_blocks=1)
    monkeypatch.setitem(SIZES, "tiny", tiny)


@pytest.fixture(autouse=True)
def drawn_alike(monkeypatch):
    """Whichever test draws them, the same systems have the same files."""

    def draw(*args, **options):
        torch.manual_seed(0)
        return systems(*args, **options)

    monkeypatch.setattr(bench, "systems", draw)


def test_command_line_writes_the_documented_rows(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "utt2num_samples").write_text("a 8000\nb 24000\n")
    argv = ["--models", "tiny", "--targets", "0.5", "--seconds", "0.5", "--rounds", "3"]
    argv += ["--batch", "2", "--data", str(data), "--json", str(tmp_path / "b")]
    bench.main(argv)
    found = json.loads((tmp_path / "b").read_text())
    assert found["machine"]["cpu"] and found["gemm_macs_per_second"] > 1e8
    rows = found["rows"]
    printed = capsys.readouterr().out
    assert printed.startswith(found["machine"]["cpu"])
    assert " ".join(found["machine"]["instruction_sets"]) in printed.splitlines()[0]
    rate = f"{found['gemm_macs_per_second'] / 1e9:.1f}"
    assert f"GMAC/s: {rate} on 1 thread(s)" in printed.splitlines()[1]
    assert f"0.5 s, batch 2, 1 thread(s), product {rate} GMAC/s" in printed
    assert "data (1 s on average), batch 2" in printed
    for row in rows:
        assert set(row) == KEYS | {"data"}
        assert row["model"] == "tiny" and row["precision"] in PRECISIONS
        assert all(row[key] >= 0 for key in NUMBERS)
        assert all(isinstance(row[key], int) and row[key] > 0 for key in WHOLE)
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0
        rtf = row["median_s"] / row["seconds"] / row["batch"]
        assert row["rtf"] == pytest.approx(rtf)
        ideal = row["macs"] / found["gemm_macs_per_second"]
        assert row["efficiency"] == pytest.approx(ideal / row["median_s"])
        assert row["system"] in printed
    assert any(r["system"] == "compact" and r["precision"] == "int8" for r in rows)
    names = {(r["system"], r["target"]) for r in rows if r["precision"] == "fp32"}
    assert names == {
        ("stock_dense", None), ("dense", None), ("compact", 0.5),
        ("compact_torch", 0.5),
    }  # fmt: skip
    assert {(r["data"], r["seconds"], r["batch"]) for r in rows} == {
        (None, 0.5, 2), ("data", 1.0, 2)
    }  # fmt: skip


@pytest.mark.slow  # what torch.compile makes of gated and stock blocks; half a minute
def test_compiled_encoders_compute_the_same():
    compared = systems(SIZES["tiny"], [0.5], ["fp32"], CPU)
    found = compiled(compared, CPU)
    assert [s.name for s in found] == [
        "stock_dense_compiled", "compact_torch_compiled"
    ]  # fmt: skip
    plain = next(s for s in compared if s.name == "compact_torch")
    x = torch.randn(2, 100, SIZES["tiny"].features)
    lengths = torch.tensor([100, 57])
    with torch.no_grad():
        expected, actual = plain.run(x, lengths)[0], found[1].run(x, lengths)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_training_steps_are_timed_beside_espnets(tmp_path, capsys):
    argv = ["--training", "--models", "tiny", "--seconds", "0.5", "--batch", "2"]
    bench.main([*argv, "--rounds", "2", "--json", str(tmp_path / "b")])
    found = json.loads((tmp_path / "b").read_text())
    rows = found["rows"]
    assert [row["system"] for row in rows] == ["stock", "gated", "pruning"]
    for row in rows:
        assert set(row) == KEYS - {"first_s"} | {"data", "ratio"}
        ratio = row["median_s"] / rows[0]["median_s"]
        assert row["ratio"] == pytest.approx(ratio) and row["median_s"] > 0
        assert row["rtf"] == pytest.approx(row["median_s"] / 0.5 / 2)
        assert row["precision"] == "fp32" and row["threads"] == 1
        assert row["target"] is row["macs"] is row["efficiency"] is row["data"] is None
    rate = f"{found['gemm_macs_per_second'] / 1e9:.1f}"
    told = f"a step of 2 x 0.5 s, 1 thread(s), product {rate} GMAC/s"
    assert told in capsys.readouterr().out


def test_training_steps_are_timed_by_number_of_threads(tmp_path, monkeypatch):
    def timed(*_):
        row = dict.fromkeys(KEYS, 1) | {"threads": torch.get_num_threads(), "ratio": 1}
        return [row]

    monkeypatch.setattr(bench, "time_training", timed)
    argv = ["--training", "--models", "tiny", "--threads", "2", "1"]
    bench.main([*argv, "--json", str(tmp_path / "b")])
    found = json.loads((tmp_path / "b").read_text())
    assert [row["threads"] for row in found["rows"]] == [2, 1]
    assert found["gemm_macs_per_second"] == found["gemm_by_threads"]["2"]


def test_killed_run_leaves_the_tables_that_it_finished(tmp_path, monkeypatch, capsys):
    argv = ["--models", "tiny", "--targets", "--precisions", "fp32", "--rounds", "1"]
    argv += ["--seconds", "0.1", "0.2"]

    def stopped(compared, seconds, *more):
        if seconds == [0.2]:
            raise KeyboardInterrupt
        return time_systems(compared, seconds, *more)

    monkeypatch.setattr(bench, "time_systems", stopped)
    monkeypatch.setattr(bench_results, "busy_cores", lambda: 99.0)
    with pytest.raises(KeyboardInterrupt):
        bench.main([*argv, "--json", str(tmp_path / "b")])
    found = json.loads((tmp_path / "b").read_text())
    assert [(r["system"], r["seconds"]) for r in found["rows"]] == [
        ("stock_dense", 0.1), ("dense", 0.1)
    ]  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("! other work kept 99.0 of ")
    assert printed[-1][2:].partition(";")[0] in found["machine"]["warning"]


def test_defaults_are_those_of_the_device(monkeypatch, caplog):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert bench.supported(None, gpu) == ["fp32", "bf16"]
    assert bench.batches(None, gpu) == [1, 16] and bench.batches(None, CPU) == [1]
    assert bench.batches([3], gpu) == bench.batches([3], CPU) == [3]
    caplog.set_level("INFO")
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(InputError, match="--seconds"):
            bench.main(["--seconds", "-1"])
        assert ("--device cuda" in caplog.text) == there


def test_utterance_too_short_to_encode_counts_as_the_one_that_was_timed():
    compared = systems(SIZES["tiny"], [], ["fp32"], CPU)
    for row in time_systems(compared, [0.01], batch=1, rounds=1, device=CPU):
        assert row["seconds"] == 0.07  # the fewest frames that ESPnet subsamples


def test_compact_encoders_use_their_budget_and_outputs_agree():
    found = systems(SIZES["tiny"], [0.5], ["fp32"], CPU, multiples=[1, 4])
    x, lengths = torch.randn(1, 200, 20), torch.tensor([200])
    with torch.no_grad():
        out = {(s.name, s.target): s.run(x, lengths)[0] for s in found}
    for name, target in out:
        plain = {"dense": "stock_dense"}.get(name, f"{name}_torch")
        if (plain, target) in out:
            torch.testing.assert_close(out[name, target], out[plain, target])
    dense, *compact = [s for s in found if "_torch" not in s.name][1:]
    for system in compact:
        left = system.macs(1000) / dense.macs(1000)
        assert left <= 1 - system.target + 1e-9
        rounded = system.name == "compact_r4"
        assert left > (0.7 if rounded else 0.9) * (1 - system.target)
        blocks = filter(None, system.encoder.architecture["blocks"])
        sizes = [block[name] for block in blocks for name in ("ffn1", "ffn2")]
        assert rounded == all(n % 4 == 0 for n in sizes)


class Keeping:
    """Keeps 60 MB from its first call on."""

    table = None

    def __call__(self, x, lengths):
        if self.table is None:
            self.table = torch.ones(15_000_000)


def test_what_a_system_keeps_counts_into_the_peak_of_every_table():
    stock, ours, _, compact = systems(SIZES["tiny"], [0.5], ["fp32"], CPU)
    keeping = replace(ours, run=Keeping(), fresh=Keeping, weight_bytes=10_000_000)
    told_not = replace(ours, fresh=None)
    for _ in range(2):
        kept, *none = time_systems([keeping, told_not], [0.5], 1, 1, CPU)
        if kept["peak_bytes"] is None:
            pytest.skip("this system has no high-water mark")
        assert 65e6 < kept["peak_bytes"] < 80e6
        assert [row["peak_bytes"] for row in none] == [None]
    assert stock.fresh() is stock.run  # ESPnet's keeps nothing
    for system in (ours, compact):
        assert type(system.fresh()) is type(system.run)
        assert system.fresh() is not system.run
    x, lengths = torch.randn(1, 90, 20), torch.tensor([90])
    with torch.no_grad():
        expected, actual = ours.run(x, lengths)[0], ours.fresh()(x, lengths)[0]
    torch.testing.assert_close(actual, expected)


def test_rate_of_products_is_that_of_the_median_round(monkeypatch):
    products, took = [], iter([0.5, 8.0, 0.25])

    def turn(tasks, order, device):
        products.extend(task() for task in tasks.values())
        return dict.fromkeys(tasks, next(took))

    monkeypatch.setattr(measure, "turn", turn)
    assert gemm_rate(CPU, rounds=3, size=16) == 16**3 / 0.5
    assert [product.shape for product in products] == [(16, 16)] * 3


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--targets", "1.5"], "--targets"),
        (["--seconds"], "--seconds"),
        (["--seconds", "-1"], "--seconds"),
        (["--data", "nope"], "nope"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "0"], "--rounds"),
        (["--device", "cuda:77"], "--device"),
        (["--device", "foo"], "--device"),
        (["--precisions", "int4"], "int4"),
        (["--compile", "--training"], "--compile"),
        (["--training", "--data", "nope"], "--data: is not for --training"),
        (["--training", "--seconds", "--data", "nope"], "--data: is not"),
        (["--training", "--precisions", "bf16"], "--precisions: are not"),
        (["--training", "--seconds"], "--seconds: gives no utterance"),
    ],
)
def test_wrong_options_are_named_before_anything_is_timed(argv, told, monkeypatch):
    for name in ("systems", "time_training"):
        monkeypatch.delattr(bench, name)
    with pytest.raises(InputError, match=told):
        bench.main(["--models", "tiny", *argv])

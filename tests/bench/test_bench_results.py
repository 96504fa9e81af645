"""What stands beside the rows of the bench: doubts about their times."""

import json

import pytest

from espnet_prune.bench import results as bench_results
from espnet_prune.bench.results import Results
from espnet_prune.bench.tables import machine_lines


def row(iqr):
    return {"median_s": 1.0, "iqr_s": iqr}


@pytest.mark.parametrize("unknown", [False, True])
def test_doubts_are_recorded_with_the_rows(tmp_path, monkeypatch, unknown):
    samples = iter([None] * 3 if unknown else [0.01, 99.0, 0.02])
    monkeypatch.setattr(bench_results, "busy_cores", lambda: next(samples))
    machine = {"cpu": "x", "busy_cores": None if unknown else 0.0, "warning": None}
    results = Results(machine, {2: 5e9, 1: 3e9}, tmp_path / "b")

    def written():
        return json.loads((tmp_path / "b").read_text())

    assert results.add([row(0.1), row(0.01)]) is None
    assert written()["machine"]["warning"] is None
    busy = results.add([row(0.02)])
    loud = results.add([row(0.0), row(0.234)])
    assert loud == "times vary by up to 23% of their median"
    found = written()
    assert found["gemm_macs_per_second"] == 5e9 and len(found["rows"]) == 5
    assert found["gemm_by_threads"] == {"1": 3e9, "2": 5e9}
    if unknown:
        assert busy is None and found["machine"]["warning"] == loud
    else:
        assert busy.startswith("other work kept 99.0 of ")
        assert found["machine"]["warning"] == f"{busy}; {loud}"
        assert found["machine"]["busy_cores"] == 99.0


def test_machine_busy_before_the_first_table_stays_so(monkeypatch):
    monkeypatch.setattr(bench_results, "busy_cores", lambda: 0.0)
    results = Results({"busy_cores": 99.0, "warning": "busy"}, {1: 1e9}, None)
    assert results.add([row(0.0)]) is None
    assert "99.0" in results.machine["warning"]


def test_machine_is_printed_with_its_gpu_and_its_warning():
    machine = {"cpu": "X 1", "cores": 2, "instruction_sets": [], "warning": "is busy"}
    assert machine_lines(machine | {"gpu": "Y 2"}, {1: 3e9, 2: 5.5e9}).splitlines() == [
        "Y 2",
        "X 1, 2 cores: instructions unknown",
        "fp32 matrix product, GMAC/s: 3.0 on 1 thread(s), 5.5 on 2 thread(s)",
        "! is busy",
    ]

"""Records of results, and the page, the picture and the README made from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from left import dump, options

from espnet_prune.base.errors import InputError
from espnet_prune.base.marks import renewed
from espnet_prune.cli import report, results
from espnet_prune.report.results import (
    Made,
    Record,
    Row,
    read_records,
    rows_of_bench,
)
from espnet_prune.report.results_page import claim, claims, page, picture, verdict

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = Made(["./run.sh"], "abc", "a CPU", "2026-11-30")
ABOUT = "digits", "real speech", "ten words", "WER %", False, "params+macs"


def test_page_and_readme_are_those_of_the_records():
    records = read_records(ROOT / "results")
    assert (ROOT / "docs/results.md").read_text() == page(records)
    readme = (ROOT / "README.md").read_text()
    assert renewed(readme, {"results": claims(records)}) == readme
    # Four tables at most, of nine rows at most.
    tables = page(records).split("\n\n")
    rows = [part.count("\n| ") - 1 for part in tables if part.startswith("| ")]
    assert len(rows) <= 4 and max(rows) <= 9


@pytest.mark.parametrize(("ends", "higher", "said"), [
    ((-0.4, 0.1), False, "not told apart"), ((0.1, 0.4), False, "worse"),
    ((0.1, 0.4), True, "better"), ((-0.4, -0.1), False, "better"),
])  # fmt: skip
def test_verdict_is_that_of_the_interval(ends, higher, said):
    rows = [Row("dense", [1.0]), Row("L0", [1.2], 0.5, difference=[0.2, *ends])]
    record = Record("t", "real speech", "w", "m", higher, "params", ORIGIN, rows)
    assert verdict(rows[1], higher) == f"{said} (one seed)"
    assert claim(record) == (
        "**t**: the dense model has a m of 1.00; with 50 % of the encoder's parameters "
        f"gone it has 1.20, {said} (one seed)."
    )
    # A difference that other speakers might turn round is no more than its utterances.
    doubt = "" if said == "not told apart" else " for these speakers"
    for by_speaker, held in (([-0.5, 0.5], doubt), ([*ends], "")):
        row = replace(rows[1], by_speaker=by_speaker)
        assert verdict(row, higher) == f"{said}{held} (one seed)"


def test_bench_is_told_in_times_of_espnets_encoder(tmp_path):
    rows = [
        {"system": name, "precision": precision, "target": target, "median_s": seconds,
         "macs": macs, "model": "d256"}
        for name, precision, target, seconds, macs in (
            ("espnet", "fp32", None, 1.0, 100), ("dense", "fp32", None, 0.5, 100),
            ("compact_torch", "fp32", 0.5, 0.6, 50), ("compact", "fp32", 0.5, 0.25, 50),
            ("compact", "int8", 0.5, 0.125, 50),
        )
    ]  # fmt: skip
    dump(tmp_path / "bench.json", {"rows": rows})
    dense, compact = rows_of_bench(tmp_path / "bench.json", "d256")
    assert (dense.system, compact.system) == ("dense", "compact")
    assert (dense.target, dense.speed) == (None, {"fp32": 2.0})
    assert (compact.target, compact.speed) == (0.5, {"fp32": 4.0, "int8": 8.0})
    assert compact.gone == {"macs": 0.5}
    with pytest.raises(InputError, match="no result of the bench with rows of d512"):
        rows_of_bench(tmp_path / "bench.json", "d512")


def test_command_writes_page_readme_and_picture(full):
    report.main(options(full))
    (full / "README.md").write_text(
        "# Mine\n<!-- made: results -->\nstale\n<!-- end -->\n"
    )
    given = ["--results", full / "results", "--docs", full / "docs", "--readme"]
    given += [full / "README.md", "--add", "tones", "--title", "tones", "--section"]
    given += ["synthetic speech", "--test", "160 words", "--commit", "abc"]
    given += ["--machine", "a CPU", "--command", "./run.sh"]
    reports = ["--reports", full / "out/report.json"]
    results.main([str(word) for word in given + reports])
    text = (full / "README.md").read_text()
    assert (
        "stale" not in text and "**tones**: the dense model has a WER of 0.00 %" in text
    )
    assert (
        "| L0 | 50 / 50 % | 25.00 | +25.00 (" in (full / "docs/results.md").read_text()
    )
    assert (full / "docs/results.png").read_bytes().startswith(b"\x89PNG")
    assert (
        json.loads((full / "results/tones.json").read_text())["made"]["commit"] == "abc"
    )
    with pytest.raises(InputError, match="--add: needs --reports or --bench"):
        results.main([str(word) for word in given])


def test_what_is_no_record_is_named(tmp_path):
    dump(tmp_path / "x.json", {"title": "x", "rows": [{"system": "dense"}]})
    with pytest.raises(InputError, match="x.json: is no record of results"):
        read_records(tmp_path)


def test_picture_has_a_dot_for_each_seed():
    rows = [Row("dense", [1.0]), Row("L0", [1.2, 1.4], 0.5, {"params": 0.5})]
    assert picture({}) is None
    (axes, hidden) = picture({"a": Record(*ABOUT, ORIGIN, rows)}).axes
    dots = {(x, y) for line in axes.lines for x, y in line.get_xydata()}
    assert dots == {(1.0, 1.0), (0.5, 1.2), (0.5, 1.4)} and not hidden.get_visible()
    clock = [Row("d", speed={"fp32": 2.0}), Row("c", target=0.5, speed={"fp32": 4.0})]
    fast = Record("d", "the clock", "10 s", "", True, "macs", ORIGIN, clock)
    assert claims({"b": fast}) == (
        "- **d**: onnxruntime alone makes the dense encoder 2.0 times (fp32) as fast "
        "as torch does; with 50 % of the encoder's MACs gone it is 4.0 times (fp32) as "
        "fast."
    )
    assert picture({"b": fast}) is None

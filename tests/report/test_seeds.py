import json
from pathlib import Path

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.cli import seeds


def significance(delta, p):
    test = {"delta_wer": delta, "interval": [-1, 1], "p_value": p}
    return test | {"p_by_speaker": None, "mapsswe_p": None}


def row(system, wer, vs=None, params=1.0e6):
    compact = system != "dense"
    return {
        "system": system,
        "method": "l0" if compact else "dense",
        "target": {
            "kind": "params" if compact else None,
            "value": 0.5 if compact else None,
        },
        "precision": "fp32",
        "test_set": "test",
        "wer": wer,
        "vs": vs or {},
        "params": {"encoder": params},
        "macs_per_second": {"encoder": None},
        "rtf": {"encoder": 0.01},
    }


@pytest.fixture
def reports(tmp_path):
    paths = []
    for i, (dense, compact, p) in enumerate(((0.01, 0.02, 0.01), (0.02, 0.025, 0.3))):
        path = tmp_path / f"{i}.json"
        vs = {
            "dense": significance(compact - dense, p),
            "l0": significance(0.001 * i, 0.02),
        }
        rows = [row("dense", dense), row("compact", compact, vs, 0.5e6)]
        path.write_text(json.dumps({"rows": [*rows, row("compact", None)]}))
        paths.append(str(path))
    return paths


def test_mean_and_range_of_the_seeds(reports, capsys):
    seeds.main(reports)
    *_, dense, compact = capsys.readouterr().out.strip().splitlines()
    assert dense.startswith(
        "| dense | test | 2 | 1.50 (1.00 to 2.00) | - | - | - | - |"
    )
    assert "| 2 | 2.25 (2.00 to 2.50) | +0.75 (+0.50 to +1.00) | 1 of 2 |" in compact
    assert "| 1 of 2 | +0.05 (+0.00 to +0.10) | 2 of 2 |" in compact
    assert "| 0.50 (0.50 to 0.50) | - | 0.0100 (" in compact


def test_a_set_without_words_has_no_difference(reports, capsys):
    for path in map(Path, reports):
        report = json.loads(path.read_text())
        report["rows"][1]["vs"]["l0"] = significance(None, None)
        path.write_text(json.dumps(report))
    seeds.main(reports)
    assert "| 1 of 2 | - | - |" in capsys.readouterr().out


def test_report_without_dense_or_a_missing_one_is_named(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="report.json: does not exist"):
        seeds.main([str(path)])
    path.write_text(json.dumps({"rows": [row("compact", 0.1)]}))
    with pytest.raises(InputError, match="is no report"):
        seeds.main([str(path)])

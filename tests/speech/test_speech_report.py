"""Costs and probes of several encoders stand in one report."""

import json

import numpy as np
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.cli import ssl_measure, ssl_probe, ssl_report
from espnet_prune.families.ssl.directory import fingerprint_of
from espnet_prune.report.ssl import check_fresh, score, scored


def test_report_compares_costs_and_probes(dense, compact, tmp_path, capsys, caplog):
    """Of labels that can be heard: the tone of an utterance."""
    for part, number in (("train", 24), ("test", 12)):
        folder = tmp_path / part
        folder.mkdir()
        text, scp = [], []
        for i in range(number):
            tone = np.sin(np.arange(8000) * (0.1, 0.3, 0.7)[i % 3] + i)
            soundfile.write(folder / f"u{i}.wav", 0.3 * tone, 16000)
            text.append(f"u{i} {'abc'[i % 3]}\n")
            scp.append(f"u{i} {folder}/u{i}.wav\n")
        (folder / "text").write_text("".join(text))
        (folder / "wav.scp").write_text("".join(scp))
    out = tmp_path / "report"
    models = ["--dense", dense, "--compact", compact, "--out", out]
    tone = ["--probes", f"tone=words:{tmp_path / 'train'}:{tmp_path / 'test'}"]
    with caplog.at_level("INFO"):
        for _ in range(2):  # the second time nothing is probed anew
            ssl_probe.main([str(x) for x in (*models, *tone, "--seeds", 2)])
    ssl_measure.main([str(x) for x in (*models, "--seconds", 1, "--rounds", 2)])
    ssl_report.main([str(x) for x in models])
    assert caplog.text.count("tone, compact: ") == 1
    report = json.loads((out / "report.json").read_text())
    found = report["rows"]
    systems = [row["system"] for row in found]
    assert systems == ["log_mel", "untrained", "dense", "compact"]
    assert found[0]["probes"]["tone"]["value"] == 100
    assert found[3]["removed"].keys() == {"params", "macs"}
    for kind in ("params", "macs"):
        assert found[3][kind] < found[2][kind]
    # Dense is not ahead of log mel energies.
    assert report["scored"] == [] and all(row["score"] is None for row in found)
    assert "there is no score" in (out / "report.html").read_text()
    assert "## Measured" in (compact / "README.md").read_text()
    assert "compact -50 % params+macs" in capsys.readouterr().out


def test_score_puts_log_mel_at_0_and_dense_at_1000_whichever_way_is_up():
    def row(system, accuracy, errors):
        values = {"words": accuracy, "spelling": errors}
        probes = {k: {"value": v, "ci": (v - 5, v + 5)} for k, v in values.items()}
        return {"system": system, "probes": probes}

    rows = [row("log_mel", 40, 80), row("dense", 80, 30), row("compact", 70, 40)]
    probes = {"words": {"higher": True}, "spelling": {"higher": False}}
    both = scored(rows, probes)
    assert both == ["words", "spelling"]
    assert [score(own, rows, both) for own in rows] == [0, 1000, 775]
    rows[1]["probes"]["words"]["ci"] = (39, 81)  # no longer ahead for sure
    assert scored(rows, probes) == ["spelling"]


def test_numbers_of_other_weights_are_refused(dense, compact, tmp_path):
    weights = {
        name: fingerprint_of(f) for name, f in (("dense", dense), ("x", compact))
    }
    systems = {name: {"weights": weights["dense"]} for name in weights}
    with pytest.raises(InputError, match="is not of the x .* -> run stage 6 again"):
        check_fresh(tmp_path, {"dense": dense, "x": compact}, {"systems": systems}, {})

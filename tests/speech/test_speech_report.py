"""Costs and probes of several encoders stand in one report."""

import csv
import json
import os
import re

import numpy as np
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.cli import ssl_measure, ssl_probe, ssl_report
from espnet_prune.families.ssl.directory import fingerprint_of
from espnet_prune.report.ssl import check_fresh, score, scored
from espnet_prune.report.ssl_summary import picture
from espnet_prune.serving import speech_onnx
from espnet_prune.serving.speech_onnx import InexactError


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
    assert found[0]["quality"]["tone"]["value"] == 100
    assert found[3]["removed"].keys() == {"params", "macs"}
    for kind in ("params", "macs"):
        assert found[3][kind] < found[2][kind]
    # Dense is not ahead of log mel energies.
    assert report["scored"] == [] and all(row["score"] is None for row in found)
    assert "there is no score" in (out / "report.html").read_text()
    assert "## Measured" in (compact / "README.md").read_text()
    (said,) = re.findall(r"compact -50 % params.macs: the .*", capsys.readouterr().out)
    value = found[3]["quality"]["tone"]["value"]
    assert re.search(r"the encoder is 5\d % smaller, \S+ times as fast, tone ", said)
    assert said.endswith(f"tone {value:.1f} % accuracy for 100.0.")
    page = (out / "report.md").read_text()
    assert page.index(said) < page.index("## Dense against compact")
    # Without a score the probe is drawn, and what is measured of it.
    panels = picture(report).axes
    assert [axes.get_ylabel() for axes in panels] == 3 * ["tone, % accuracy"]
    drawn = {
        (line.get_label(), *map(float, line.lines[0].get_xydata()[0]))
        for line in panels[0].containers
    }
    assert drawn == {
        (name, row["params"] / 1e6, row["quality"]["tone"]["value"])
        for name, row in (("dense", found[2]), ("l0", found[3]))
    }
    assert (out / "pareto_1.png").read_bytes().startswith(b"\x89PNG")
    with (out / "report.csv").open() as f:
        table = list(csv.DictReader(f))
    assert float(table[3]["quality.tone.value"]) == value


def test_audio_of_a_probe_is_seen_by_its_contents(tmp_path, caplog):
    folders = [tmp_path / "train", tmp_path / "test"]
    for folder in folders:
        folder.mkdir()
        soundfile.write(folder / "u.wav", np.full(100, 0.1), 16000)
        (folder / "text").write_text("u a\n")
        (folder / "wav.scp").write_text("u u.wav\n")

    def stamp():
        return ssl_probe.stamp_of("words", folders, tmp_path / "out")

    first, file = stamp(), folders[1] / "u.wav"
    assert stamp() == first
    dates = file.stat()
    soundfile.write(file, np.full(100, 0.2), 16000)
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    second = stamp()
    assert second != first and stamp() == second
    (folders[1] / "wav.scp").write_text(f"u cat {file} |\n")
    with caplog.at_level("INFO"):
        assert stamp() != stamp()
    assert "commands give audio: it is probed anew" in caplog.text


def test_score_puts_log_mel_at_0_and_dense_at_1000_whichever_way_is_up():
    def row(system, accuracy, errors):
        values = {"words": accuracy, "spelling": errors}
        probes = {k: {"value": v, "ci": (v - 5, v + 5)} for k, v in values.items()}
        return {"system": system, "quality": probes}

    rows = [row("log_mel", 40, 80), row("dense", 80, 30), row("compact", 70, 40)]
    probes = {"words": {"higher": True}, "spelling": {"higher": False}}
    both = scored(rows, probes)
    assert both == ["words", "spelling"]
    assert [score(own, rows, both) for own in rows] == [0, 1000, 775]
    rows[1]["quality"]["words"]["ci"] = (39, 81)  # no longer ahead for sure
    assert scored(rows, probes) == ["spelling"]


def test_numbers_of_other_weights_are_refused(dense, compact, tmp_path):
    weights = {
        name: fingerprint_of(f) for name, f in (("dense", dense), ("x", compact))
    }
    systems = {name: {"weights": weights["dense"]} for name in weights}
    with pytest.raises(InputError, match="is not of the x .* -> run stage 6 again"):
        check_fresh(tmp_path, {"dense": dense, "x": compact}, {"systems": systems}, {})


def test_a_model_that_int8_does_not_hold_is_timed_without(
    dense, tmp_path, monkeypatch, caplog
):
    def inexact(*_):
        raise InexactError("outputs in int8 differ by 0.64")

    monkeypatch.setattr(speech_onnx, "write_speech_int8", inexact)
    models = ["--dense", str(dense), "--out", str(tmp_path)]
    ssl_measure.main([*models, "--seconds", "1", "--rounds", "1"])
    assert "dense: not timed in int8: outputs in int8 differ by 0.64" in caplog.text
    ssl_report.main(models)
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert "rtf_int8" not in row and row["rtf_onnx"] > 0


def test_recordings_of_the_training_set_test_nothing(tmp_path):
    for part, keys in (("train", "ab"), ("test", "bc")):
        folder = tmp_path / part
        folder.mkdir()
        for key in keys:
            soundfile.write(tmp_path / f"{key}.wav", np.ones(8000) / 9, 16000)
        scp = "".join(f"{key} {tmp_path / key}.wav\n" for key in keys)
        (folder / "wav.scp").write_text(scp)
        (folder / "text").write_text("".join(f"{key} x{key}\n" for key in keys))
    probe = f"words:{tmp_path / 'train'}:{tmp_path / 'test'}"
    with pytest.raises(InputError, match="b.wav is in the training set, too"):
        ssl_probe.check_probes([probe])


def test_probes_of_other_data_do_not_stay(dense, tmp_path):
    """Neither one that is not asked for any more, nor one of older labels."""
    for part in ("train", "test", "other"):
        folder = tmp_path / part
        folder.mkdir()
        for i in range(6):
            tone = np.sin(np.arange(8000) * (0.1, 0.5)[i % 2] + i)
            soundfile.write(folder / f"{i}.wav", 0.3 * tone, 16000)
        scp = "".join(f"u{i} {folder / str(i)}.wav\n" for i in range(6))
        (folder / "wav.scp").write_text(scp)
        (folder / "text").write_text("".join(f"u{i} {'ab'[i % 2]}\n" for i in range(6)))

    def probed(*probes):
        words = ["--dense", dense, "--out", tmp_path / "report", "--seeds", "1"]
        ssl_probe.main([*map(str, words), "--probes", " ".join(probes)])
        found = json.loads((tmp_path / "report/probes.json").read_text())
        return [*found["probes"]], found["systems"]["dense"]

    first = f"tone=words:{tmp_path / 'train'}:{tmp_path / 'test'}"
    both = f"more=words:{tmp_path / 'train'}:{tmp_path / 'other'}"
    assert probed(first, both)[0] == ["tone", "more"]
    names, own = probed(first)
    assert names == ["tone"]
    (tmp_path / "test/text").write_text("".join(f"u{i} a\n" for i in range(6)))
    stamp = own["tone"]["stamp"]
    assert probed(first)[1]["tone"]["stamp"] != stamp

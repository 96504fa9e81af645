"""The report of what the stages left."""

import csv
import json
import math
import re
import shutil

import pytest
from left import PRUNING, WRONG, checkpoint, dump, measured, options, scored

from espnet_prune.base.errors import InputError
from espnet_prune.cli import report
from espnet_prune.report.caveats import caveats
from espnet_prune.report.curves import read_curves
from espnet_prune.report.page import pareto_figure
from espnet_prune.report.pareto import Point, pareto
from espnet_prune.report.rendering import Table
from espnet_prune.report.tables import channels_sentence, significance_table
from espnet_prune.report.verdict import verdicts

# The interface that others script against: a type, or a dict or list of such.
NUMBER, COUNT, TEXT = (float, int, type(None)), (int, type(None)), (str, type(None))
ROW = {
    "system": str,
    "method": TEXT,
    "target": {"kind": TEXT, "value": NUMBER},
    "precision": str,
    "test_set": str,
    "decoded": str,
    "quality": dict,
    "params": dict.fromkeys(
        ("frontend", "subsampling", "blocks", "encoder", "decoder", "total"), COUNT
    ),
    "macs_per_second": dict.fromkeys(
        ("frontend", "subsampling", "blocks", "encoder"), NUMBER
    ),
    "rtf": dict.fromkeys(("encoder", "ctc_greedy", "search"), NUMBER),
    "rtf_espnet": dict.fromkeys(("encoder", "ctc_greedy", "search"), NUMBER),
    "delay": NUMBER,
    "bytes": COUNT,
    "p_vs_dense": NUMBER,
    "vs": dict,
}
TEST = ("delta", "interval", "p_value", "p_by_speaker", "mapsswe_p")


def wer(row):
    return row["quality"].get("WER", {}).get("value")


def check(value, form, where="report"):
    if isinstance(form, dict):
        assert value.keys() == form.keys(), where
        for key in form:
            check(value[key], form[key], f"{where}.{key}")
    elif isinstance(form, list):
        assert len(value) == len(form), where
        for item, part in zip(value, form, strict=True):
            check(item, part, where)
    else:
        assert isinstance(value, form), where


def check_report(path):
    found = json.loads(path.read_text())
    assert found.keys() == {
        "corpus", "decoding", "environment", "macs_seconds", "rows"
    }  # fmt: skip
    assert isinstance(found["environment"], dict)
    for row in found["rows"]:
        check(row, ROW)
        for value in row["quality"].values():
            assert value.keys() == {"value", "ci", "unit"}
        assert row["vs"].keys() <= {"dense", "l0"}
        for test in row["vs"].values():
            assert tuple(test) == TEST
        assert row["p_vs_dense"] == row["vs"].get("dense", {}).get("p_value")
    return found


def test_times_of_a_busy_machine_come_with_a_warning(full):
    path = full / "dense/measure.json"
    result = json.loads(path.read_text())
    result["machine"]["warning"] = "other work kept 2 of 2 cores busy"
    dump(path, result)
    report.main(options(full))
    head = (full / "out/report.md").read_text().split("## Where the cost is")[0]
    assert "not reliable: other work kept 2 of 2 cores busy" in head


@pytest.mark.parametrize("delta, p, said", [(-0.02, 0.01, True), (-0.02, 0.2, False),
                                            (0.02, 0.01, False)])  # fmt: skip
def test_compact_better_than_dense_says_what_may_be_behind_it(full, delta, p, said):
    for path in full.glob("compact/*/*/score_wer/significance.json"):
        test = json.loads(path.read_text()) | {"delta": delta, "p_value": p}
        dump(path, test)
    report.main(options(full))
    text = " ".join((full / "out/report.md").read_text().split())
    assert ("so small a model is enough for these data, or the dense" in text) == said
    assert ("went on training it" in text) == said


def test_small_model_better_than_dense_is_no_longer_training_of_it():
    better = {"dense": {"delta": -2.0, "p_value": 0.001}}
    row = {"method": "small_distilled", "vs": better, "target": {"value": 0.75}}
    report = {"corpus": "c", "environment": {"measured_on": None}, "rows": [row]}
    (told, _) = caveats(report)
    assert "was not trained to its end." in told and "went on" not in told


def test_each_p_value_stands_in_its_own_column(full):
    values = {"delta": 0.02, "interval": [-0.01, 0.03], "p_value": 0.11}
    values |= {"p_by_speaker": 0.22, "mapsswe_p": 0.33}
    for path in full.glob("compact/*/*/score_wer/significance.json"):
        dump(path, json.loads(path.read_text()) | values)
    report.main(options(full))
    table = (full / "out/report.md").read_text().split("## Significance")[1]
    assert "95 % | p bootstrap | p by speaker | p MAPSSWE |" in table
    assert "| +2.00 | -1.00 to +3.00 | 0.11 | 0.22 | 0.330 |" in table


def test_system_that_was_not_compared_with_both_has_dashes_for_one():
    test = {"delta": 2.0, "interval": [-1.0, 3.0], "p_value": 0.11}
    test |= {"p_by_speaker": None, "mapsswe_p": None}
    rows = [
        {
            "system": name,
            "target": {"kind": None, "value": None},
            "method": None,
            "precision": "fp32",
            "test_set": "t",
            "quality": {"WER": {"value": 3.0, "ci": None, "unit": "%"}},
            "vs": vs,
        }
        for name, vs in (("a", {"dense": test}), ("b", {"dense": test, "l0": test}))
    ]
    one, both = significance_table(rows).rows
    assert len(one) == len(both) == 12
    assert one[-5:] == ["-"] * 5 and one[:-5][1:] == both[:-5][1:]


def test_lower_precisions_have_rows_of_their_own(full, capsys):
    dense, compact = full / "dense", full / "compact"
    vs = {"": dense / "decode_d/test"}
    scored(dense / "decode_d_int8/test", full / "ref", WRONG, vs)
    scored(compact / "decode_d_int8/test", full / "ref", WRONG.replace("B", "X"), vs)
    for exp, factor in ((dense, 0.004), (compact, 0.002)):
        path = exp / "measure.json"
        result = json.loads(path.read_text())
        result["rtf_by_precision"] = {
            "int8": {c: {"median": factor, "iqr": 0.0} for c in result["rtf"]}
        }
        dump(path, result)
    report.main(options(full, "--precisions=int8"))
    rows = check_report(full / "out/report.json")["rows"]
    found = [(r["system"], r["precision"], wer(r), r["rtf"]["encoder"]) for r in rows]
    assert found == [
        ("dense", "fp32", 0.0, 0.02), ("dense", "int8", 25.0, 0.004),
        ("compact", "fp32", 25.0, 0.01), ("compact", "int8", 50.0, 0.002),
    ]  # fmt: skip
    assert [list(row["vs"]) for row in rows] == [[], ["dense"], ["dense"], ["dense"]]
    out = capsys.readouterr().out
    assert "0.0020 -90%" in out
    told = "by onnxruntime in int8, 10.0 times as fast as ESPnet's dense encoder"
    assert f"{told} (the dense one so: 5.0 times), WER 50.00" in out
    text = (full / "out/report.md").read_text()
    assert "| dense int8 |" in text and "| compact -50 % params int8 |" in text


def test_full_report(rendered, full, capsys, caplog):
    report.main(options(full, "--note=quick preset"))
    assert "quick preset" in caplog.messages  # beside the table on the screen, too
    rows = check_report(full / "out/report.json")["rows"]
    dense, compact = rows
    assert (wer(dense), wer(compact)) == (0.0, 25.0)
    assert list(dense["quality"]) == ["WER", "CER"]
    assert compact["quality"]["CER"]["value"] == pytest.approx(100 / 6)
    assert (dense["system"], dense["method"]) == ("dense", "dense")
    assert dense["target"] == {"kind": None, "value": None}
    assert dense["p_vs_dense"] is None and compact["p_vs_dense"] > 0
    assert compact["target"] == {"kind": "params", "value": 0.5}
    assert compact["rtf"] == dict.fromkeys(("encoder", "ctc_greedy", "search"), 0.01)

    text = (full / "out/report.md").read_text()
    assert text.index("Synthetic speech") < text.index("## Dense against compact")
    assert "**quick preset**" in text and "Not there yet" not in text
    assert "| compact -50 % params | 25.00 |" in text
    assert "0.0100 -50%" in text
    assert "| 1 | gone | 1/4 | 8/8 | 8/8 | 8/8 | 32/32 |" in text
    assert "| 2 | gone | gone | gone | gone | gone | gone |" in text
    pictures = re.findall(r"\]\((.*\.png)\)", text)
    assert len(pictures) == 5
    for name in pictures:
        assert (full / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "compact -50 % params" in capsys.readouterr().out


def test_latency_of_a_streaming_search_is_told(full):
    for system, seconds in (("dense", 0.2), ("compact", 0.15)):
        file = full / system / "measure.json"
        dump(file, json.loads(file.read_text()) | {"delay": seconds})
    report.main(options(full))
    text = " ".join((full / "out/report.md").read_text().split())
    assert "comes): dense 200 ms, compact -50 % params 150 ms." in text


def test_each_compact_model_has_a_sentence(full, capsys):
    report.main(options(full))
    said = (
        "compact -50 % params: the encoder is 50 % smaller, 2.0 times as fast (with "
        "the search: 2.0 times); WER 25.00 % for 0.00 %, +25.00 points, significant (p "
    )
    page = " ".join((full / "out/report.md").read_text().split())
    assert said in capsys.readouterr().out and page.index(said) < page.index("Synth")


@pytest.mark.parametrize(
    "p, said", [(0.2, "not significant (p 0.2)"), (None, "not tested")]
)
def test_what_is_not_significant_is_not_called_so(full, p, said):
    for path in full.glob("compact/*/*/score_wer/significance.json"):
        dump(path, json.loads(path.read_text()) | {"p_value": p})
    report.main(options(full))
    (told,) = verdicts(check_report(full / "out/report.json")["rows"])
    assert f"+25.00 points, {said}." in told


def test_rows_stand_in_a_table_for_other_programs(full):
    report.main(options(full))
    with (full / "out/report.csv").open() as f:
        dense, compact = csv.DictReader(f)
    found = [row["quality.WER.value"] for row in (dense, compact)]
    assert found == ["0.0", "25.0"]
    assert compact["params.encoder"] == "1000" and dense["vs.dense.p_value"] == ""
    assert float(compact["vs.dense.interval.0"]) > 0


def test_characters_are_told_first_where_words_are_not_parted(full, capsys):
    right, wrong = "今天天气好", "今天天气坏"
    for system, last in (("dense", right), ("compact", wrong)):
        folder = full / system / "decode_d/test"
        shutil.rmtree(folder)
        keys = [f"u{i}" for i in range(40)]
        (full / "ref").write_text("".join(f"{key} {right}\n" for key in keys))
        hyp = "".join(f"{key} {last}\n" for key in keys)
        vs = {"": full / "dense/decode_d/test"} if system == "compact" else {}
        scored(folder, full / "ref", hyp, vs)
    report.main(options(full))
    out = capsys.readouterr().out
    assert out.split("\n")[0].split("  ")[0] == "system" and "CER %" in out
    assert out.index("CER %") < out.index("WER %")
    assert "CER 20.00 % for 0.00 %, +20.00 points, significant" in out
    _, compact = check_report(full / "out/report.json")["rows"]
    assert compact["vs"]["dense"]["delta"] == pytest.approx(20)
    assert compact["quality"]["WER"]["value"] == 100
    assert "CER - dense's" in (full / "out/report.md").read_text()


def test_main_table_fits_a_laptop(full, capsys):
    report.main(options(full))
    table = capsys.readouterr().out.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 110


def test_html_stands_alone(full):
    report.main(options(full, "--note=<b>&"))
    page = (full / "out/report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "&lt;b&gt;&amp;" in page
    without_data = re.sub(r"data:image/png;base64,[^\"]*", "", page)
    assert not re.search(r"https?:|<script|<link|url\(|@import", without_data)
    assert set(re.findall(r"src=\"([^\"]*)\"", without_data)) == {""}


def test_nothing_measured_yet_is_null_and_named(tmp_path, capsys):
    report.main(options(tmp_path))
    rows = check_report(tmp_path / "out/report.json")["rows"]
    assert [row["system"] for row in rows] == ["dense", "compact"]
    for row in rows:
        assert row["quality"]["WER"] == {"value": None, "ci": None, "unit": "%"}
        assert set(row["params"].values()) == {None}
    text = (tmp_path / "out/report.md").read_text()
    missing = text[text.index("Not there yet") :]
    for stage in ("11", "12", "13", "14", "15-16", "17"):
        assert f"(stage {stage})" in missing
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["dense", "-"]


@pytest.fixture
def with_baseline(full):
    """Two rungs of a baseline beside it, compared with dense and with L0."""
    for i, hyp in enumerate((WRONG.replace("B", "X"), WRONG.replace("A B", "X X"))):
        exp = full / f"random{i}"
        vs = {"": full / "dense/decode_d/test", "l0": full / "compact/decode_d/test"}
        scored(exp / "decode_d/test", full / "ref", hyp, vs)
        measured(exp, 1)
        changes = {"method": "random", "target": {"kind": "params", "value": 0.75}}
        if i:
            changes["method"] = "small"
            shallow = PRUNING["architecture"] | {
                "blocks": PRUNING["architecture"]["blocks"][:1]
            }
            changes["architecture"] = shallow
        pruning = {k: v for k, v in PRUNING.items() if "before" not in k}
        dump(exp / "pruning.json", pruning | changes)
        more = {"model_conf": {"plan": {"method": changes["method"]}}}
        (full / f"pruned{i}").mkdir()
        (full / f"pruned{i}/student.yaml").write_text(json.dumps(more))
    more = [f"--compact={full / f'random{i}'}" for i in (0, 1)]
    return full, [*more, *(f"--pruned={full / f'pruned{i}'}" for i in (0, 1))]


def test_baselines_stand_beside_the_pruned_models(with_baseline):
    full, more = with_baseline
    report.main(options(full, *more))
    rows = check_report(full / "out/report.json")["rows"]
    assert [row["method"] for row in rows] == ["dense", "l0", "random", "small"]
    text = (full / "out/report.md").read_text()
    assert "| random -75 % params | 50.00 |" in text
    # Of a small model, that may have fewer blocks, nothing is kept.
    assert (full / "out/kept_2.png").exists() and "kept_3.png" not in text
    assert "![Pareto of test](pareto_1.png)" in text
    assert "cut at once (random); trained from scratch for the" in " ".join(
        text.split()
    )
    table = text[text.index("## Significance") :].splitlines()[2:7]
    assert "WER - L0's" in table[0] and "p MAPSSWE" in table[0]
    assert table[2].startswith("| compact -50 % params | test | +25.00 |")
    assert table[2].endswith("| - | - | - | - |")
    assert table[3].startswith("| random -75 % params | test | +50.00 |")
    assert "| +25.00 |" in table[3]
    # A one-shot method has no training to show, and none is missing; a small model's
    # is missing here.
    assert "pruned1/checkpoint.pth" in text and "pruned0/checkpoint.pth" not in text


def test_a_pruned_frontend_is_shown_where_its_cost_is_and_what_was_kept(full):
    report.main(options(full))
    text = (full / "out/report.md").read_text()
    head = "| total M | subsampling M | blocks M | decoder M | GMAC/s: subsampling |"
    assert head in text
    assert "rontend" not in text[text.index("## Where the cost is") :].split("##")[1]
    for system, scale in (("dense", 4), ("compact", 1)):
        file = full / system / "measure.json"
        measured = json.loads(file.read_text())
        for kind in ("params", "macs_per_second"):
            measured[kind] |= {"frontend": scale * 10**9}
        dump(file, measured)
    block = {"heads": 4, "qk_dim": 8, "v_dim": 8, "ffn": 32}
    whole = {"convolution": [8, 9], "positions": [0, 1], "taps": [0, 16]}
    whole["blocks"] = [block | {"head_index": [0, 1, 2, 3]}, block]
    cut = {"convolution": [5, 6], "positions": [1], "taps": [2, 13]}
    cut["blocks"] = [block | {"heads": 3}, dict.fromkeys(block, 0)]
    told = PRUNING | {"frontend": cut, "dense_frontend": whole}
    dump(full / "compact/pruning.json", told)
    report.main(options(full))
    text = (full / "out/report.md").read_text()
    assert "| total M | frontend M | subsampling M |" in text
    assert "| dense | 0.01 | 0.003 | 4000.000 | " in text and "| 4.0000 |" in text
    assert (
        "kept: 5/8, 6/9; of its positional convolution 1/2 groups and 11/16 t" in text
    )
    assert "| 1 | 3/4 | 8/8 | 8/8 | 32/32 |\n| 2 | gone | gone | gone | gone |" in text


def test_length_of_the_utterance_is_stated(full):
    measured = json.loads((full / "dense/measure.json").read_text())
    dump(full / "dense/measure.json", measured | {"macs_seconds": 5.0})
    target = PRUNING["target"] | {"kind": "macs"}
    more = {"target": target, "macs_seconds": 5.0}
    dump(full / "compact/pruning.json", PRUNING | more)
    report.main(options(full))
    text = " ".join((full / "out/report.md").read_text().split())
    assert "per second of audio, in an utterance of 5 s." in text
    assert "remove 50.0 % of macs (of an utterance of 5 s) of the encoder" in text


def test_pruned_decoder_and_several_limits_are_shown(full):
    layer = {"self_heads": 2, "ffn": 9}
    limits = [
        {"of": "ffn", "kind": "params", "realised": 0.4},
        {"of": "others", "kind": "params", "realised": 0.6},
    ]
    more = {"decoder": [layer | {"self_heads": 0}], "dense_decoder": [layer]}
    dump(full / "compact/pruning.json", PRUNING | more | {"constraints": limits})
    report.main(options(full))
    text = (full / "out/report.md").read_text()
    assert "| 1 | gone | 9/9 |" in text
    assert "(ffn params 40.00 %, others params 60.00 %)" in text


def test_a_soup_is_told_with_its_errors_on_the_validation_set(full):
    report.main(options(full))
    assert "greedy soup" not in (full / "out/report.md").read_text()
    ingredients = [
        {"run": "finetune", "error_rate": 0.125, "is_in": True, "seed": 1},
        {"run": "finetune_2", "error_rate": 0.25, "is_in": False, "seed": 2},
        {"run": "finetune_3", "error_rate": 0.13, "is_in": True, "seed": 3},
    ]
    told = {"metric": "WER", "decoding": "CTC greedy", "validation": "dump/raw/dev"}
    told |= {"error_rate": 0.11, "best_single": 0.125, "ingredients": ingredients}
    dump(full / "compact/soup.json", told)
    report.main(options(full))
    text = " ".join((full / "out/report.md").read_text().split())
    assert "is the average of 2 of 3 fine-tunings, a greedy soup." in text
    assert "the validation set (dump/raw/dev, decoded by CTC greedy)" in text
    assert "its WER is 11.00 %, that of the best single one 12.50 %:" in text
    assert "finetune_2 25.00 % (left out), finetune_3 13.00 % (in)." in text


def test_pareto_draws_every_system_where_its_cost_and_wer_are(with_baseline):
    full, more = with_baseline
    report.main(options(full, *more))
    rows = check_report(full / "out/report.json")["rows"]
    panels = pareto_figure(rows, "t").axes
    costs = (("params", 1e6), ("macs_per_second", 1e9), ("rtf", 1.0))
    for axes, (part, scale) in zip(panels, costs, strict=True):
        drawn = {
            (line.get_label(), float(x), float(y))
            for line in axes.containers
            for x, y in line.lines[0].get_xydata()
        }
        assert drawn == {
            (row["method"], row[part]["encoder"] / scale, wer(row))
            for row in rows
            if wer(row) is not None
        }
        assert len(drawn) == 4


def test_pareto_joins_a_methods_points_by_their_cost():
    points = [Point("l0", (cost,), 1.0, None) for cost in (3.0, 1.0, 2.0)]
    (axes,) = pareto(points, ["cost"], "WER", "t").axes
    (line, *_) = axes.lines
    assert list(line.get_xdata()) == [1.0, 2.0, 3.0]


def test_pareto_needs_two_systems(full):
    report.main(options(full))
    rows = check_report(full / "out/report.json")["rows"]
    assert len(pareto_figure(rows, "t").axes) == 3
    assert pareto_figure(rows[:1], "t") is None


def test_several_targets_and_sets(full):
    more = f"--compact={full / 'later'}"
    report.main(options(full, more, "--test_sets=test other"))
    rows = check_report(full / "out/report.json")["rows"]
    found = [(row["test_set"], row["system"], wer(row)) for row in rows]
    assert found == [
        ("test", "dense", 0.0), ("test", "compact", 25.0), ("test", "compact", None),
        ("other", "dense", None), ("other", "compact", None),
        ("other", "compact", None),
    ]  # fmt: skip


def test_real_speech_is_not_called_synthetic(full):
    report.main(options(full, "--corpus=digits"))
    assert "ynthetic" not in (full / "out/report.md").read_text()


def test_decoding_of_other_weights_than_were_measured_is_left_out(full):
    mark = full / "compact/decode_d/test/model.sha256"
    result = json.loads((full / "compact/measure.json").read_text())
    dump(full / "compact/measure.json", {**result, "sha256": "aa", "model": "m.pth"})
    for decoded, rate in (("aa", 25.0), ("bb", None)):
        mark.write_text(f"{decoded}\n")
        report.main(options(full))
        row = check_report(full / "out/report.json")["rows"][1]
        assert wer(row) == rate and (row["p_vs_dense"] is None) == (rate is None)
        text = (full / "out/report.md").read_text()
        assert ("other weights than m.pth" in text) == (rate is None)


def test_decodings_of_other_weights_alone_leave_dashes(full, capsys):
    for system in ("dense", "compact"):
        (full / system / "decode_d/test/model.sha256").write_text("bb\n")
        file = full / system / "measure.json"
        dump(file, json.loads(file.read_text()) | {"sha256": "aa", "model": "m.pth"})
    report.main(options(full))
    header, _, dense, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["system", "WER", "%"]
    assert dense.split()[:3] == ["dense", "-", "-"]


def test_times_of_different_runs_do_not_meet_in_a_table(full):
    def sessions(dense, compact):
        for name, session in (("dense", dense), ("compact", compact)):
            path = full / name / "measure.json"
            dump(path, json.loads(path.read_text()) | {"session": session})
        report.main(options(full))
        return check_report(full / "out/report.json")["rows"][1]["rtf"]["encoder"]

    assert sessions("a", "a") is not None
    text = (full / "out/report.md").read_text()
    assert "Where the time goes" in text and " +- " in text
    assert "dense, ESPnet's encoder" in text and "run by onnxruntime, the" in text
    assert sessions("b", "a") is None
    assert "timed in another run" in (full / "out/report.md").read_text()


def test_encoders_that_onnxruntime_did_not_run_are_not_said_to_be_run_by_it(full):
    path = full / "dense/measure.json"
    dump(path, json.loads(path.read_text()) | {"rtf_espnet": None})
    report.main(options(full))
    text = (full / "out/report.md").read_text()
    assert "run by torch." in text and "run by onnxruntime" not in text


def test_damaged_checkpoint_is_named(full):
    path = full / "dense/checkpoint.pth"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="checkpoint.pth: is no readable checkpoint"):
        report.main(options(full))


def test_damaged_input_is_named(full):
    (full / "dense/measure.json").write_text("{")
    with pytest.raises(InputError, match="measure.json: is not JSON"):
        report.main(options(full))
    with pytest.raises(InputError, match="no test set"):
        report.main(options(full, "--test_sets="))


def test_curves_leave_out_times_and_nan(tmp_path):
    waited = {"__timedelta_seconds__": 1.0}  # as ESPnet 202611 writes a time
    checkpoint(tmp_path / "c.pth", loss=math.nan, acc=0.5, waited=waited)
    found = read_curves(tmp_path / "c.pth")
    assert found["train"] == {"acc": [(1, 0.5), (2, 0.5), (3, 0.5)]}


def test_table_renderings():
    table = Table(["a", "bb"], [["x", "<1>"]])
    assert table.markdown() == "| a | bb |\n| --- | ---: |\n| x | <1> |\n"
    assert table.text() == "a   bb\n-  ---\nx  <1>\n"
    assert "<td>&lt;1&gt;</td>" in table.html()


def test_model_dimension_is_told_beside_the_subsampling():
    sizes = {"subsampling": [3, 4], "blocks": []}
    pruning = {"architecture": sizes, "dense_architecture": sizes}
    old = channels_sentence(pruning)
    assert old == "Subsampling channels kept: 3/3, 4/4."
    narrow = channels_sentence(pruning | {"model_dim": [8, 16]})
    assert narrow == f"{old} Model dimension: 8/16."
    aimed = pruning | {"model_dim": [8, 16], "model_dim_target": 0.25}
    assert channels_sentence(aimed) == (
        f"{old} Model dimension: 8/16 (aimed at: 25.0 % less)."
    )


def test_training_of_a_dense_model_from_elsewhere_is_shown(full):
    (full / "dense/checkpoint.pth").rename(full / "their.pth")
    options_there = options(full, f"--dense_training={full / 'their'}")
    report.main(options_there)
    text = (full / "out/report.md").read_text()
    assert "their/checkpoint.pth (stage 11)" in text and "dense/checkp" not in text
    (full / "their").mkdir()
    (full / "their.pth").rename(full / "their/checkpoint.pth")
    report.main(options_there)
    text = (full / "out/report.md").read_text()
    assert "Dense training (their)" in text and "(stage 11)" not in text


def test_the_time_of_another_search_is_left_out(full):
    path = full / "dense/measure.json"
    measured = json.loads(path.read_text())
    for search, kept in (("other", False), ("d", True)):
        dump(path, measured | {"decoding": search})
        report.main(options(full))
        (dense, *_) = json.loads((full / "out/report.json").read_text())["rows"]
        assert (dense["rtf"]["search"] is not None) == kept
        text = (full / "out/report.md").read_text()
        assert ("timed with other, another one" in text) != kept
        assert "Decoded as d.yaml says." in text

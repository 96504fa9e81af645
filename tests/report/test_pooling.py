"""Several runs of the same systems, told together."""

import json
import re
import shutil

import pytest
from left import PRUNING, RIGHT, WRONG, dump, measured, options, scored

from espnet_prune.base.errors import InputError
from espnet_prune.cli import compare, report
from espnet_prune.report.pooling import pooled
from espnet_prune.report.results_page import verdict


@pytest.fixture
def run(full):
    """``run(name, hyp, baseline)``: report of a run with its own compact models."""

    def make(name, hyp, baseline=None):
        folder = full / name
        shutil.copytree(full / "dense", folder / "dense")
        vs = {"": folder / "dense/decode_d/test"}
        told = {"compact": PRUNING, "magnitude": PRUNING | {"method": "magnitude"}}
        for system, text in (("compact", hyp), ("magnitude", baseline)):
            if text is not None:
                scored(folder / system / "decode_d/test", full / "ref", text, vs)
                measured(folder / system, 1)
                dump(folder / system / "pruning.json", told[system])
        report.main(options(folder, f"--compact={folder / 'magnitude'}"))
        return folder / "out/report.json"

    return make


def test_seeds_are_pooled_and_tested_together(run, full):
    """The second run makes no error: its mean with the first is half of that one's."""
    reports = [run("one", WRONG), run("two", RIGHT)]
    # Only times of one run are compared: in the second all is twice as slow.
    for system, scale in (("dense", 4), ("compact", 2)):
        measured(full / "two" / system, scale)
    report.main(options(full / "two"))
    ((name, (metric, (dense, compact))),) = pooled(reports).items()
    assert (name, metric) == ("test", "WER %")
    assert (dense.system, dense.values, dense.target) == ("dense", [0.0, 0.0], None)
    assert (compact.system, compact.values) == ("L0", [25.0, 0.0])
    assert compact.seeds == 2 and compact.gone == {"params": 0.5, "macs": 0.5}
    assert compact.speed == {"encoder": 2.0, "search": 2.0}
    mean, low, high = compact.difference
    assert mean == pytest.approx(12.5) and 0 < low < mean < high
    assert compact.by_speaker is None
    assert verdict(compact, higher=False) == "worse (two seeds)"


def test_one_method_is_held_against_another_over_all_runs(run, capsys):
    worse = WRONG.replace("A B", "X X")
    reports = [run("one", WRONG, RIGHT), run("two", WRONG, worse)]
    compare.main([*map(str, reports), "--versus", "l0"])
    *_, dense, l0, magnitude = capsys.readouterr().out.strip().splitlines()
    assert "| 0.00 | - |" in dense and "| 25.00 | - |" in l0
    # 0 and 75 % against 25 % twice.
    assert "| 37.50 (0.00 to 75.00) | +12.50 (+" in magnitude
    assert "| worse (two seeds) | 2.0 |" in magnitude


def test_runs_are_held_against_others_of_the_same_system(run, capsys):
    ours, theirs = [run("a1", RIGHT), run("a2", RIGHT)], [run("b1", WRONG)]
    compare.main([*map(str, ours), "--others", *map(str, theirs)])
    *_, dense, compact = capsys.readouterr().out.strip().splitlines()
    assert "| +0.00 (+0.00 to +0.00) | not told apart" in dense
    assert "| 0.00 | -25.00 (-" in compact and "| better (two seeds) |" in compact


def test_other_speakers_are_told_of_where_they_are_known(run, full, capsys):
    lines = (f"{key}{i:02d} s{i // 4}\n" for key in "uv" for i in range(20))
    (full / "utt2spk").write_text("".join(lines))
    wrong = "".join(f"u{i:02d} A B\nv{i:02d} C {'DX'[i % 3 > 0]}\n" for i in range(20))
    compare.main([str(run("one", wrong))])
    found = re.search(r"\+16.25 \(\S+ to \S+; speakers \+(\S+) to \+(\S+)\)",
                      capsys.readouterr().out)  # fmt: skip
    assert 0 < float(found[1]) < 16.25 < float(found[2])


def test_test_sets_of_other_names_are_taken_in_their_order(full, caplog):
    found = []
    for tag, hyp in (("a", WRONG), ("b", RIGHT)):
        for number in (1, 2):
            for system, text in (("dense", RIGHT), ("compact", hyp)):
                vs = {"": full / f"dense/decode_d/{tag}{number}"}
                scored(full / system / f"decode_d/{tag}{number}", full / "ref", text,
                       vs if system == "compact" else None)  # fmt: skip
        out = full / f"out_{tag}"
        report.main(options(full, f"--test_sets={tag}1 {tag}2", f"--out={out}"))
        found.append(out / "report.json")
    told = pooled(found)
    assert list(told) == ["a1", "a2"] and "b2 are taken for a2" in caplog.text
    assert [row.values for row in told["a2"][1]] == [[0.0, 0.0], [25.0, 0.0]]
    report.main(options(full, f"--out={full / 'one_set'}"))
    with pytest.raises(InputError, match="reports: have other test sets"):
        pooled([found[0], full / "one_set/report.json"])
    with pytest.raises(InputError, match="reports: have other test sets"):
        pooled(found, others=[full / "one_set/report.json"])


def test_scores_of_older_code_have_no_speakers(run, full):
    report = run("one", WRONG)
    for path in full.glob("one/*/decode_d/test/score_wer/result.json"):
        scores = json.loads(path.read_text())
        del scores["references"], scores["leads"]
        dump(path, scores)
    (_, compact) = pooled([report])["test"][1]
    assert compact.difference[0] == 25 and compact.by_speaker is None


def test_a_report_without_figures_is_named(full):
    dump(full / "none.json", {"rows": []})
    for path in (full / "none.json", full / "not.there"):
        with pytest.raises(InputError, match="run stages 15-18"):
            pooled([path])


def test_runs_on_other_references_are_refused(run, full):
    one = run("one", WRONG)
    fewer = RIGHT.replace("u00 A B\n", "")
    (full / "ref").write_text(fewer)
    shutil.rmtree(full / "dense/decode_d/test")
    scored(full / "dense/decode_d/test", full / "ref", fewer)
    with pytest.raises(InputError, match="scored on other utterances"):
        pooled([one, run("two", fewer)])

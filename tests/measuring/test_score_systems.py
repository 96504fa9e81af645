import json
import shutil

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.cli import score_systems

SETS = ("quiet", "noisy")
KEYS = [f"spk-u{i:02}" for i in range(36)]
# Utterances with a wrong word, by system: each has another error rate.
WRONG = {"dense": 1, "l0": 2, "magnitude": 5, "dense bf16": 3, "l0 bf16": 4}
WRONG["magnitude bf16"] = 6


def decoded(system):
    exp, _, precision = system.partition(" ")
    return f"{exp}/decode_{precision}".rstrip("_")


def write(path, wrong):
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["A X C" if i < wrong else "A B C" for i in range(len(KEYS))]
    lines = (f"{key} {text}\n" for key, text in zip(KEYS, words, strict=True))
    path.write_text("".join(lines))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """``recipe(folder, *options)``: score six decodings of two sets there."""

    def score(folder, *options):
        for name in SETS:
            write(tmp_path / folder / f"dump/{name}/text", 0)
            for system, wrong in WRONG.items():
                text = tmp_path / folder / decoded(system) / name / "text"
                if not text.exists():
                    write(text, wrong)
        monkeypatch.chdir(tmp_path / folder)
        score_systems.main(
            ["--dense", "dense", "--compact", "l0", "--baseline", "magnitude", "l0"]
            + ["--data", "dump", "--test_sets", " ".join(SETS)]
            + ["--decode_tag", "decode", "--precisions", "bf16", *options]
        )
        return results(tmp_path / folder)

    return score


def results(folder):
    found = folder.glob("*/decode*/*/score_*/**/*")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.is_file()
    }


@pytest.mark.slow  # processes and jobs give what one process does
def test_results_are_the_same_however_the_work_is_split(recipe, jobs_here):
    alone = recipe("alone", "--nj", "1")
    assert recipe("together", "--nj", "3") == alone
    assert recipe("cluster", "--nj", "2", "--executor", "slurm") == alone
    assert len(jobs_here) == 3  # an array for each step that needs the one before
    for system, wrong in WRONG.items():
        for name in SETS:
            found = alone[f"{decoded(system)}/{name}/score_wer/result.json"]
            result = json.loads(found)
            assert result["error_rate"] == pytest.approx(wrong / (3 * len(KEYS)))


def test_each_system_is_held_against_those_it_should_be(recipe):
    found = recipe("here")
    for system, wrong in WRONG.items():
        vs = {"": "dense"} if system != "dense" else {}
        if system.startswith("magnitude"):
            vs["_l0"] = "l0"
        for other, named in vs.items():
            folder = f"{decoded(system)}/noisy/score_wer"
            test = json.loads(found[f"{folder}/significance{other}.json"])
            assert test["vs"] == f"{named}/decode/noisy"
            gap = (wrong - WRONG[named]) / (3 * len(KEYS))
            assert test["delta"] == pytest.approx(gap)
    assert not any("dense/decode/" in file and "signif" in file for file in found)


def test_only_what_changed_is_scored_again(recipe, tmp_path, caplog):
    caplog.set_level("INFO")
    recipe("here")
    caplog.clear()
    recipe("here")
    assert "WER" not in caplog.text
    write(tmp_path / "here/l0/decode/noisy/text", 7)
    recipe("here")
    scored = [line.split(": ")[1] for line in caplog.messages if "WER" in line]
    assert scored == [  # and the baselines, which are held against it
        f"{system}/noisy/score_wer"
        for system in ("l0/decode", "magnitude/decode", "magnitude/decode_bf16")
    ]


def test_speakers_of_the_references_are_compared_and_looked_at_again(recipe, tmp_path):
    name = "magnitude/decode/noisy/score_wer/significance_l0.json"
    assert json.loads(recipe("here")[name])["n_speakers"] is None
    for size in (6, 9):  # utterances of each
        lines = (f"{key} s{i // size}\n" for i, key in enumerate(KEYS))
        (tmp_path / "here/dump/noisy/utt2spk").write_text("".join(lines))
        test = json.loads(recipe("here")[name])
        assert test["n_speakers"] == 36 // size
        assert (test["p_by_speaker"] is None) == (size == 9)  # four are too few


def test_broken_hypotheses_are_named_and_only_they_are_scored_later(
    recipe, tmp_path, caplog
):
    caplog.set_level("INFO")
    bad = tmp_path / "here/l0/decode_bf16/noisy/text"
    bad.parent.mkdir(parents=True)
    bad.write_text(f"{KEYS[0]} A B C\n")
    with pytest.raises(InputError, match="l0/decode_bf16/noisy/text.*no hypothesis"):
        recipe("here", "--nj", "1")
    bad.unlink()
    caplog.clear()
    recipe("here", "--nj", "1")
    assert "2 of 2 were scored before" in caplog.text
    scored = [line.split(": ")[1] for line in caplog.messages if "WER" in line]
    assert scored[0] == "l0/decode_bf16/noisy/score_wer"
    assert all(line.startswith("magnitude") for line in scored[1:])


def test_other_weights_of_the_same_words_are_compared_anew(recipe, tmp_path):
    recipe("here")
    dense = tmp_path / "here/dense/decode/quiet"
    for weights in ("one", "two"):
        text = (dense / "text").read_text()
        shutil.rmtree(dense)  # as stage 15 replaces it
        dense.mkdir()
        (dense / "text").write_text(text)
        (dense / "model.sha256").write_text(f"{weights}\n")
        found = recipe("here")
        for system in ("l0/decode", "l0/decode_bf16", "magnitude/decode"):
            test = json.loads(found[f"{system}/quiet/score_wer/significance.json"])
            assert test["vs_sha256"] == weights


def test_corrected_references_reach_a_system_compared_with_older_scores(
    recipe, tmp_path
):
    recipe("here")
    folder = tmp_path / "here"
    write(folder / "dump/quiet/text", 1)  # l0 has an error less
    alone = ["--dense", "dense", "--data", "dump", "--test_sets", "quiet"]
    alone += ["--decode_tag", "decode", "--baseline", "magnitude", "l0"]
    score_systems.main(alone)
    score_systems.main([*alone, "--compact", "l0"])
    test, ours, theirs = (
        json.loads((folder / f"{system}/decode/quiet/score_wer/{file}").read_text())
        for system, file in (
            ("magnitude", "significance_l0.json"),
            ("magnitude", "result.json"),
            ("l0", "result.json"),
        )
    )
    gap = ours["error_rate"] - theirs["error_rate"]
    assert test["delta"] == pytest.approx(gap)


@pytest.mark.parametrize("gone", ["score_wer", "score_wer/result.json", "score_cer"])
def test_scores_that_are_gone_are_made_again(recipe, tmp_path, gone):
    before = recipe("here")
    path = tmp_path / "here/l0/decode/quiet" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert recipe("here") == before


def test_hypotheses_that_change_while_their_rival_is_gone_are_seen(recipe, tmp_path):
    recipe("here")
    (tmp_path / "here/l0/decode/quiet/score_wer/result.json").unlink()
    options = ["--dense", "dense", "--data", "dump", "--test_sets", "quiet"]
    options += ["--decode_tag", "decode", "--baseline", "magnitude", "l0"]
    for wrong in (7, 9):
        write(tmp_path / "here/magnitude/decode/quiet/text", wrong)
        with pytest.raises(InputError, match="l0.*run stage 16"):
            score_systems.main(options)
    score_systems.main([*options, "--compact", "l0"])
    result = tmp_path / "here/magnitude/decode/quiet/score_wer/result.json"
    assert json.loads(result.read_text())["error_rate"] == pytest.approx(
        9 / (3 * len(KEYS))
    )


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_all_broken_parts_are_named_and_the_others_scored(
    recipe, tmp_path, jobs_here, executor
):
    for name in SETS:
        path = tmp_path / f"here/l0/decode/{name}/text"
        path.parent.mkdir(parents=True)
        path.write_text(f"{KEYS[0]} A B C\n")
    with pytest.raises(InputError, match="2 of 6 parts: .*quiet.*noisy"):
        recipe("here", "--nj", "1", "--executor", executor)
    assert len(list((tmp_path / "here").glob("l0/decode_bf16/*/score_cer"))) == 2


def test_a_directory_may_have_a_sign_of_equality_in_its_name(recipe, tmp_path):
    folder = tmp_path / "here"
    recipe("here")
    (folder / "dense").rename(folder / "lr=0.1")
    score_systems.main(
        ["--dense", "lr=0.1", "--compact", "l0", "--data", "dump"]
        + ["--test_sets", "quiet", "--decode_tag", "decode"]
    )
    test = folder / "l0/decode/quiet/score_wer/significance.json"
    assert json.loads(test.read_text())["vs"] == "lr=0.1/decode/quiet"


def test_baseline_alone_is_not_held_against_what_was_never_scored(recipe, tmp_path):
    folder = tmp_path / "here"
    with pytest.raises(InputError):
        recipe("here", "--test_sets", "none")  # makes the decodings only
    score_systems.main(
        ["--dense", "dense", "--baseline", "magnitude", "l0", "--data", "dump"]
        + ["--test_sets", "quiet", "--decode_tag", "decode"]
    )
    tests = folder.glob("magnitude/decode/quiet/score_wer/significance*.json")
    assert [test.name for test in tests] == ["significance.json"]

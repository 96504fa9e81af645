"""The stages of ``run.sh --family ssl``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipe_copy import copy_recipe, start


@pytest.mark.slow
def test_one_command_goes_from_a_model_and_audio_to_a_report(dense, audio, tmp_path):
    """What no other test shows: the stages of the shell fit each other."""
    recipe = copy_recipe(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    short = "--max_epoch 1"
    options = ["--family", "ssl", "--model", dense, "--audio", audio, "--tag", "tiny"]
    options += ["--crop_seconds", "1", "--prune_args", short, "--distil_args", short]
    options += ["--measure_args", "--seconds 1 --rounds 2"]
    result = subprocess.run(
        ["bash", recipe / "run.sh", *map(str, options)],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((recipe / "exp/tiny_report/report.json").read_text())
    names = [row["system"] for row in report["rows"]]
    assert names == ["dense", "compact"]
    assert "stage 7" in result.stdout and "left out 2 recordings" in result.stderr


@pytest.mark.slow
def test_quick_preset_needs_nothing(tmp_path):
    """What no other test shows: the model of the project, the synthetic audio and the
    probes by default."""
    recipe = copy_recipe(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", recipe / "run.sh", "--family", "ssl", "--preset", "quick"]
        + ["--prune_args", "--max_epoch 1", "--distil_args", "--max_epoch 1"]
        + ["--measure_args", "--seconds 2 --rounds 2"],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(
        (recipe / "exp/small_hubert_quick_report/report.json").read_text()
    )
    assert report["probes"].keys() == {"words", "characters", "queries"}
    assert all(
        row["quality"].keys() == report["probes"].keys() for row in report["rows"]
    )
    dense, compact = report["rows"][2:]
    assert compact["params"] < 0.51 * dense["params"]
    assert (
        "QUICK PRESET"
        in (recipe / "exp/small_hubert_quick_report/report.md").read_text()
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "2"), "--targets 2: give fractions"),
        (("--preset", "thorough"), "--preset thorough: default or quick"),
        (("--crop_seconds", "x"), "--crop_seconds x: give seconds"),
        (("--stage", "8"), "no stage lies there"),
        (("--model", "no/such/model"), "no/such/model: is no directory"),
        (("--model", "x", "--audio", "x", "--nope", "2"), "unknown option --nope"),
    ],
)
def test_wrong_option_is_one_clear_line(tmp_path, options, told):
    recipe = copy_recipe(tmp_path)
    result = start(recipe / "run.sh", "--family", "ssl", *options)
    assert result.returncode == 2 and told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1

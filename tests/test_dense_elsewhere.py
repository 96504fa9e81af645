"""A dense model from elsewhere: what is made of it goes to the run, not beside it."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from recipe_copy import copy_recipe, fake_python

SET = "dump/raw/synth_test"
SETS = ("--train_set", "synth_train", "--valid_set", "synth_dev")
SETS += ("--test_sets", "synth_test")
COMPACT = ("config.yaml", "pruned.pth", "pruning.json", "finetuned.pth")


@pytest.fixture
def commands(tmp_path):
    """``commands(*options)``: what run.sh starts: python3 only writes it down."""
    recipe, calls = tmp_path / "recipe", tmp_path / "calls"
    recipe.mkdir()
    copy_recipe(recipe)
    there = [f"dump/raw/{s}/utt2num_samples" for s in ("synth_train", "synth_dev")]
    there += [f"{SET}/wav.scp", f"{SET}/text", "exp/t_pruned_params_macs50/config.yaml"]
    there += [f"exp/t_compact_params_macs50/{name}" for name in COMPACT]
    for run in ("t_dense", "t_compact_params_macs50"):
        for precision in ("", "_int8"):
            there.append(f"exp/{run}/decode_decode{precision}/synth_test/text")
    for folder in ("their", "exp/owner_name"):
        there += [f"{folder}/config.yaml", f"{folder}/model.pth"]
    for file in there:
        (recipe / file).parent.mkdir(parents=True, exist_ok=True)
        (recipe / file).touch()
    program = fake_python(tmp_path / "bin", calls)

    def start(*options: str) -> list[list[str]]:
        subprocess.run(
            ["bash", recipe / "run.sh", "--tag", "t", *SETS, *options],
            env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
            check=True,
        )
        return [shlex.split(line) for line in calls.read_text().splitlines()]

    return start


def values(found, program, option):
    """What an option of a program is in all its calls."""
    return [
        call[i + 1]
        for call in found
        if f"espnet_prune.cli.{program}" in call
        for i, word in enumerate(call)
        if word == option
    ]


@pytest.mark.parametrize("given", ["files", "tag"])
def test_nothing_is_written_beside_a_teacher_from_elsewhere(commands, given):
    if given == "files":
        teacher = Path("their")
        options = ["--teacher_config", "their/config.yaml"]
        options += ["--teacher_model", "their/model.pth"]
    else:
        teacher, options = Path("exp/owner_name"), ["--teacher_tag", "owner/name"]
    found = commands("--stage", "12", "--precisions", "int8", *options)
    names = ["exp/t_dense", "exp/t_compact_params_macs50"]
    assert values(found, "decode", "--out") == [
        f"{name}/decode_decode{precision}/synth_test"
        for name in names
        for precision in ("", "_int8")
    ]
    assert values(found, "decode", "--model")[0] == f"{teacher}/model.pth"
    assert values(found, "score_systems", "--dense") == names[:1]
    assert values(found, "measure", "--system") == [
        f"dense={teacher}/config.yaml:{teacher}/model.pth:{names[0]}",
        f"params_macs50={names[1]}/config.yaml:{names[1]}/finetuned.pth:{names[1]}",
    ]
    assert values(found, "report", "--dense") == names[:1]
    assert values(found, "report", "--dense_training") == [str(teacher)]
    tables = values(found, "ladder", "--latency_table")
    assert tables == [f"{names[0]}/latency.json"]


def test_fetched_teacher_and_what_is_made_of_it_lie_apart(commands):
    tag = ("--teacher_tag", "owner/name", "--license", "cc0-1.0")
    found = commands(*tag, "--stage", "11", "--stop_stage", "11")
    assert values(found, "fetch_teacher", "--out") == ["exp/owner_name"]
    found = commands(*tag, "--stage", "19")
    assert values(found, "pack", "--dense") == ["exp/t_dense"]


def test_model_that_the_recipe_trains_has_one_directory(commands, tmp_path):
    dense = tmp_path / "recipe/exp/t_dense"
    for name in ("config.yaml", "valid.acc.ave.pth"):
        (dense / name).touch()
    found = commands("--stage", "15", "--target", "0.5")
    (system, _) = values(found, "measure", "--system")
    own = "exp/t_dense"
    assert system == f"dense={own}/config.yaml:{own}/valid.acc.ave.pth:{own}"
    assert values(found, "decode", "--out")[0] == f"{own}/decode_decode/synth_test"
    assert values(found, "report", "--dense_training") == [own]

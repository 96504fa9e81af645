"""The recipes of egs2/: run.sh under another name, with options of their own."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from recipe_copy import ROOT, copy_recipe, start

RECIPES = sorted(path.parent for path in ROOT.glob("egs2/*/*/run.sh"))
NAMES = ["/".join(recipe.parts[-2:]) for recipe in RECIPES]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of it, recipes included."""
    copy = copy_recipe(tmp_path_factory.mktemp("checkout"))
    for name, recipe in zip(NAMES, RECIPES, strict=True):
        (copy / "egs2" / name).mkdir(parents=True)
        for file in (recipe / "run.sh", *links(recipe)):
            shutil.copy(file, copy / "egs2" / name, follow_symlinks=False)
    return copy


@pytest.fixture(params=NAMES)
def run(request, checkout):
    """``run(*options)``: one of the recipes, started from elsewhere."""

    return partial(start, checkout / "egs2" / request.param / "run.sh")


def links(recipe: Path) -> list[Path]:
    return [path for path in recipe.iterdir() if path.is_symlink()]


def test_there_are_recipes():
    assert NAMES == ["librispeech/asr_prune1", "librispeech_100/asr_prune1"]


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_links_lead_into_the_checkout(recipe):
    assert {link.name for link in links(recipe)} == {
        "conf", "local", "path.sh", "recipe.sh",
    }  # fmt: skip
    for link in links(recipe):
        assert not os.readlink(link).startswith("/")  # it must hold in any clone
        assert link.resolve(strict=True).is_relative_to(ROOT)


def test_its_own_options_are_taken(run):
    result = run("--stage", "5", "--stop_stage", "5")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and "_sp/utt2num_samples is missing" in line
    assert "run stage 4 " in line


def test_options_given_to_it_win(run):
    result = run("--target_kind", "flops")
    assert result.returncode == 2 and "--target_kind flops: " in result.stderr
    help_message = run("--help")
    assert help_message.returncode == 0 and "--librispeech" in help_message.stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_configs_that_it_names_are_there(recipe):
    words = (recipe / "run.sh").read_text().split()
    configs = [word for word in words if word.startswith("conf/")]
    assert len(configs) == 4
    for config in configs:
        assert yaml.safe_load((recipe / config).read_text())

"""What the documentation tells a user to do is done."""

import re
import shutil
from pathlib import Path

import pytest

from espnet_prune.data.table import read_table, write_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_a_page_gives_to_run_sh_exist(page):
    known = (ROOT / "run.sh").read_text() + (ROOT / "tests/run.sh").read_text()
    commands = re.findall(r"^\./run\.sh .*(?:\\\n.*)*", page.read_text(), re.MULTILINE)
    if page.name == "espnet-recipes.md":
        return  # those are ESPnet's run.sh
    for command in commands:
        for option in re.findall(r"(?<= )--\w+", re.sub(r'"[^"]*"|#.*', "", command)):
            assert f"  {option} " in known, command


@pytest.mark.slow
def test_the_python_page_runs(dense, data_dir, python, tmp_path, monkeypatch):
    experiment = tmp_path / "exp/asr_train"
    experiment.mkdir(parents=True)
    (experiment / "config.yaml").symlink_to(dense / "config.yaml")
    (experiment / "valid.acc.ave.pth").symlink_to(dense / "model.pth")
    for name in ("train", "dev"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for table in ("wav.scp", "text"):
            shutil.copy(data_dir / table, folder)
        write_table(folder / "utt2spk", dict.fromkeys(read_table(folder / "text"), "s"))
    shutil.copy(data_dir / "utt03.wav", tmp_path / "my.wav")
    code = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S
    )
    assert len(code) == 3
    monkeypatch.chdir(tmp_path)
    result = python("-c", "\n".join(code))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert (tmp_path / "exp/small/compact/finetuned.pth").exists()
    assert (tmp_path / "exp/adapted/valid.acc.ave.pth").exists()

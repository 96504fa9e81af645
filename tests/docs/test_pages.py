"""Links lead somewhere, the reference holds all modules, and the Python page runs."""

import re
import shutil
from importlib.util import find_spec

import pytest
from pages import PAGES, ROOT, blocks

from espnet_prune.base.table import read_table, write_table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_holds_all_modules():
    """But for the programs, and what nobody calls."""
    page = (ROOT / "docs/reference.md").read_text()
    listed = set(re.findall(r"^::: espnet_prune\.(\S+)$", page, re.MULTILINE))
    package = ROOT / "espnet_prune"
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if not name.startswith(("cli.", "export.deployment.")) and "__" not in name:
            assert name in listed | {"base.quiet"}, name


@pytest.mark.slow  # the page as a user types it, but for the number of epochs
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
    code = blocks(ROOT / "docs/python.md", "python")
    assert len(code) == 3
    ez = find_spec("espnetez") is not None
    if not ez:  # ESPnet 202611 has none
        code.pop()
    few = ("prune_options", "finetune_options")
    few = "".join(f'{name}=["--max_epoch", "1"], ' for name in few)
    code[0] = code[0].replace("beam_size=5,", f"beam_size=5, {few}")
    monkeypatch.chdir(tmp_path)
    result = python("-c", "\n".join(code))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert (tmp_path / "exp/small/compact/finetuned.pth").exists()
    assert (tmp_path / "exp/adapted/valid.acc.ave.pth").exists() == ez

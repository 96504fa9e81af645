"""What pip installs holds all that the package reads."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_installed_holds_the_recipes_that_prune_takes(tmp_path):
    # A copy: setuptools leaves its notes beside pyproject.toml.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("espnet_prune", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    build = ["-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib"]
    subprocess.run(
        [sys.executable, *build, "installed"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    installed = tmp_path / "installed/espnet_prune"
    for name in ("prune.yaml", "finetune.yaml"):
        assert (installed / "conf" / name).is_file()
    assert (installed / "layers/attention.py").is_file()

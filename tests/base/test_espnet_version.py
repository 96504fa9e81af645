"""ESPnet of another version is refused when its registry, or a program, asks for it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_prune.base import espnet_version
from espnet_prune.base.errors import InputError
from espnet_prune.base.espnet_version import VERSIONS, version_for
from espnet_prune.training import registration

MEND = f"pip install espnet=={version_for(sys.version_info[:2])}"


def test_requirements_ask_for_the_version_of_each_python(request):
    lines = (request.config.rootpath / "requirements.txt").read_text()
    pins = re.findall(r'^espnet==(.+); python_version (.+) "3.12"$', lines, re.M)
    assert pins == [(VERSIONS[3, 11], "<"), (VERSIONS[3, 12], ">=")]
    assert version_for((3, 11)) == VERSIONS[3, 11] != VERSIONS[3, 12]
    assert version_for((3, 12)) == version_for((3, 13)) == VERSIONS[3, 12]


@pytest.mark.parametrize(
    ("version", "right"), [("202509", False), ("202511", True), ("202611", True)]
)
def test_other_version_is_refused_by_name(monkeypatch, version, right):
    monkeypatch.setattr(espnet_version, "imported", lambda: (version, "here"))
    monkeypatch.setattr(espnet_version.metadata, "version", lambda _: version)
    if right:
        espnet_version.check_espnet()
        return
    with pytest.raises(InputError, match=f"is version {version}, .* {MEND}"):
        espnet_version.check_espnet()


def test_registry_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(espnet_version, "imported", lambda: ("202509", "here"))
    with pytest.raises(InputError, match="is version 202509, whose layers are others"):
        registration.register()


def test_a_checkout_that_comes_first_is_refused_where_espnet_is_used(tmp_path):
    """ESPnet's own path.sh puts its checkout into PYTHONPATH."""
    installed = Path(importlib.util.find_spec("espnet2").origin).parents[1]
    for package in ("espnet", "espnet2"):
        (tmp_path / package).mkdir()
        for path in (installed / package).iterdir():
            (tmp_path / package / path.name).symlink_to(path)
    version = tmp_path / "espnet" / "version.txt"
    version.unlink(missing_ok=True)
    version.write_text("202509\n")
    code = "import espnet_prune\nprint('here')\nimport espnet_prune.cli.asr_inference"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode and "here" in result.stdout
    assert f"is version 202509, whose layers are others -> take {tmp_path}" in (
        result.stderr
    )

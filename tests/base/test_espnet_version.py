"""ESPnet of another version is refused when its registry, or a program, asks for it."""

import re
import subprocess
import sys

import pytest

from espnet_prune.base import espnet_version
from espnet_prune.base.errors import InputError
from espnet_prune.base.espnet_version import VERSIONS, version_for

MEND = f"pip install espnet=={version_for(sys.version_info[:2])}"

PRETEND = """
from importlib import metadata
real = metadata.version
metadata.version = lambda name: "202509" if name == "espnet" else real(name)
import espnet_prune
"""


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
    monkeypatch.setattr(espnet_version.metadata, "version", lambda _: version)
    if right:
        espnet_version.check_espnet()
        return
    with pytest.raises(InputError, match=f"{version} is .* {MEND}"):
        espnet_version.check_espnet()


@pytest.mark.parametrize(
    "then", ["import espnet2.tasks.asr", "import espnet_prune.cli.decode"]
)
def test_it_is_refused_where_espnet_is_used_and_not_before(then):
    command = [sys.executable, "-c", PRETEND + "print('here')\n" + then]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode and "here" in result.stdout
    assert MEND in result.stderr

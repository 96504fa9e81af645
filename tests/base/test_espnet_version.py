"""ESPnet of another version is refused when its registry, or a program, asks for it."""

import subprocess
import sys

import pytest

from espnet_prune.base import espnet_version
from espnet_prune.base.errors import InputError

PRETEND = """
from importlib import metadata
real = metadata.version
metadata.version = lambda name: "202611" if name == "espnet" else real(name)
import espnet_prune
"""


@pytest.mark.parametrize(("version", "right"), [("202611", False), ("202511", True)])
def test_other_version_is_refused_by_name(monkeypatch, version, right):
    monkeypatch.setattr(espnet_version.metadata, "version", lambda _: version)
    if right:
        espnet_version.check_espnet()
        return
    with pytest.raises(InputError, match="202611 is .* pip install espnet==202511"):
        espnet_version.check_espnet()


@pytest.mark.parametrize(
    "then", ["import espnet2.tasks.asr", "import espnet_prune.cli.decode"]
)
def test_it_is_refused_where_espnet_is_used_and_not_before(then):
    command = [sys.executable, "-c", PRETEND + "print('here')\n" + then]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode and "here" in result.stdout
    assert "pip install espnet==202511" in result.stderr

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[1] / "local" / "check_pins.py"


@pytest.fixture
def check(tmp_path):
    def run(text: str) -> subprocess.CompletedProcess:
        path = tmp_path / "requirements.txt"
        path.write_text(text)
        command = [sys.executable, str(CHECK), str(path)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    "pin",
    [
        f"pytest=={metadata.version('pytest')}",
        f"pytest=={metadata.version('pytest')}  # a comment",
        "# only a comment\n\n",
        "pytest<9999",
        'pytest==0.0.1; python_version < "3.2"',
        'no-such-package==1.0; python_version >= "9.0"  # as a number, 3.2 < 3.11',
        f'pytest=={metadata.version("pytest")}; python_version >= "3.2"',
    ],
)
def test_met_pin_is_silent(check, pin):
    result = check(pin + "\n")
    assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize(
    "pin",
    [
        "pytest==0.0.1",
        "pytest<1",
        "no-such-package==1.0",
        'pytest==0.0.1; python_version >= "3.2"',
        'pytest<1; python_version < "3.100"',
    ],
)
def test_unmet_pin_is_named(check, pin):
    result = check(f"pytest<9999\n{pin}\n")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{pin} (here: ")


def test_included_file_counts(check, tmp_path):
    (tmp_path / "base.txt").write_text("pytest==0.0.1\n")
    assert check("-r base.txt\n").returncode == 1


def test_local_build_of_a_version_is_that_version(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(CHECK.parent)
    import check_pins

    monkeypatch.setattr(check_pins.metadata, "version", lambda _: "2.11.0+cpu")
    (tmp_path / "r.txt").write_text("torch==2.11.0\n")
    assert check_pins.unmet(tmp_path / "r.txt") == []
    (tmp_path / "r.txt").write_text("torch==2.11.1\n")
    assert len(check_pins.unmet(tmp_path / "r.txt")) == 1

"""Fixtures of the data tests: tiny data directories, and command lines in-process."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))


@pytest.fixture
def cli(monkeypatch) -> Callable[..., None]:
    """``cli("espnet_prune.cli.x", *args)`` or ``cli("synth_data", *args)``."""

    def run(module: str, *args: object) -> None:
        monkeypatch.setattr(sys, "argv", [module, *map(str, args)])
        import_module(module).main()

    return run


def _tone(seconds: float, fs: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * fs)) / fs)


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """``tone(seconds, fs, hertz)``: a sine, float64 (time,)."""
    return _tone


@pytest.fixture
def make_dir(tmp_path) -> Callable[..., Path]:
    """``make_dir(name, {utterance: (samples, fs)})`` writes a Kaldi directory.

    Without audio: three utterances of 1 s, 16 kHz, mono. All belong to speaker "s".
    """

    def make(name: str = "x", audio: dict | None = None) -> Path:
        if audio is None:
            audio = {f"s-{i}": (_tone(1.0, 16000), 16000) for i in range(3)}
        folder = tmp_path / name
        folder.mkdir()
        for utterance, (samples, fs) in audio.items():
            soundfile.write(folder / f"{utterance}.wav", samples, fs)
        tables = {
            "wav.scp": "{0} {0}.wav\n",
            "text": "{0} WORD {0}\n",
            "utt2spk": "{0} s\n",
        }
        for table, line in tables.items():
            (folder / table).write_text("".join(line.format(u) for u in sorted(audio)))
        return folder

    return make


@pytest.fixture
def corpora() -> Path:
    """The development corpora; tests that need them are skipped without."""
    path = Path(os.environ.get("ESPNET_PRUNE_CORPORA", ROOT / "../shared/corpora"))
    if not path.is_dir():
        pytest.skip(f"no corpora at {path}: set ESPNET_PRUNE_CORPORA to their folder")
    return path


@pytest.fixture
def digests() -> Callable[[Path], dict[str, bytes]]:
    """``digests(folder)``: every file below it, by relative name, with its bytes."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read

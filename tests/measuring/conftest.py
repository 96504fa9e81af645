"""Two tiny random ESPnet models and some noise to decode with them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fixtures.encoders import NEEDED, SIZES


@pytest.fixture(scope="session")
def tiny_models(make_dense) -> dict[str, tuple[Path, Path]]:
    """Config and weights of a ``dense`` and a smaller ``compact`` model."""
    folders = {
        name: make_dense(encoder_conf=SIZES | NEEDED | {"num_blocks": blocks})
        for name, blocks in (("dense", 2), ("compact", 1))
    }
    return {n: (f / "config.yaml", f / "model.pth") for n, f in folders.items()}


@pytest.fixture
def noise_set(tmp_path) -> Path:
    """A data directory of three short utterances of noise at 16 kHz."""
    draw = np.random.default_rng(0)
    lines = []
    for i in range(3):
        path = tmp_path / f"{i}.flac"
        soundfile.write(path, 0.1 * draw.standard_normal(4800 * (i + 1)), 16000)
        lines.append(f"utt{i} {path}\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    return tmp_path

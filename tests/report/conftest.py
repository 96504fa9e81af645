import math

import pytest
from left import PRUNING, RIGHT, WRONG, checkpoint, dump, measured, scored

from espnet_prune.report import plots


@pytest.fixture
def rendered():
    """Asked for by tests that need the pictures."""


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """Figures are made in every test; to render them takes most of a report's time."""
    if "rendered" not in request.fixturenames:
        monkeypatch.setattr(plots, "png", lambda figure: b"a picture")


@pytest.fixture
def full(tmp_path):
    """What all stages leave, for one compact system."""
    (tmp_path / "ref").write_text(RIGHT)
    dense, compact = tmp_path / "dense", tmp_path / "compact"
    scored(dense / "decode_d/test", tmp_path / "ref", RIGHT)
    vs = {"": dense / "decode_d/test"}
    scored(compact / "decode_d/test", tmp_path / "ref", WRONG, vs)
    measured(dense, 2)
    measured(compact, 1)
    dump(compact / "pruning.json", PRUNING)
    checkpoint(dense / "checkpoint.pth", loss=1.0, acc=0.5)
    gates = {"sparsity_expected": 0.4, "sparsity_target": 0.5, "lambda1": 0.1}
    checkpoint(tmp_path / "pruned/checkpoint.pth", loss=1.0, loss_layer=0.2, **gates)
    checkpoint(compact / "finetune/checkpoint.pth", loss=math.nan, acc=0.5)
    return tmp_path

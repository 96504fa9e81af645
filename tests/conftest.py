"""What every test runs under; fixtures are in tests/fixtures."""

import functools
import gc
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings
from torch.onnx._internal._lazy_import import onnxscript_apis

from espnet_prune.base.files import LOADER

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in (
        "devices",
        "encoders",
        "frontends",
        "models",
        "owsm",
        "processes",
        "runs",
        "s3prl_upstreams",
    )
]
# A busy machine makes no test wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def _nltk_data() -> tempfile.TemporaryDirectory:
    """Let stock ESPnet be imported without a download: a dependency of it fetches
    nltk data unless it finds them, and never reads them here."""
    folder = tempfile.TemporaryDirectory()
    for name in ("taggers/averaged_perceptron_tagger_eng", "corpora/cmudict"):
        path = Path(folder.name, f"{name}.zip")
        path.parent.mkdir()
        zipfile.ZipFile(path, "w").close()
    os.environ["NLTK_DATA"] = folder.name
    return folder


# What is written for onnxruntime goes where the tests end; workers share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    TORCH_HOME = tempfile.TemporaryDirectory()
    os.environ["TORCH_HOME"] = TORCH_HOME.name
# ESPnet reads a config whenever it builds a model; libyaml does so ten times as fast.
yaml.SafeLoader = LOADER
# At once: conftest.py files of subdirectories import ESPnet. Kept until the end.
NLTK_DATA = _nltk_data()
# What looks for a model elsewhere is answered at once, not after attempts.
os.environ["HF_HUB_OFFLINE"] = "1"
import espnet_prune.base.quiet  # noqa: E402, F401  (a third of ESPnet's own time)
from espnet_prune.measuring import machine  # noqa: E402
from espnet_prune.serving import speech_onnx  # noqa: E402

# What is imported stays: no collection of garbage need look through it.
gc.freeze()
# For each file that it writes torch makes all operators that onnxscript knows.
onnxscript_apis.get_torchlib_ops = functools.cache(
    lambda: onnxscript_apis.__getattr__("get_torchlib_ops")()
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Look at other work, and compare tiny models, for no longer than that takes."""
    monkeypatch.setattr(machine, "SAMPLE", 0.02)
    monkeypatch.setattr(speech_onnx, "SECONDS", (0.1, 0.6))

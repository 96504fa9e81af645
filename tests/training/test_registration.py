"""ESPnet knows our encoders, decoder and model as soon as the package is imported."""

import pickle
import sys

import pytest
from espnet2.tasks import asr, s2t

from espnet_prune.families.registry import KINDS
from espnet_prune.training import registration
from espnet_prune.training.task import PruneASRTask


def test_import_alone_is_light(python):
    code = "import espnet_prune, sys; print(*sys.modules)"
    loaded = set(python("-c", code).stdout.split())
    assert "espnet_prune" in loaded
    assert not {"torch", "espnet", "espnet2", "numpy", "yaml"} & loaded


@pytest.mark.parametrize("task", [asr, s2t], ids=["asr", "s2t"])
def test_each_kind_is_registered_once_also_after_espnet_was_imported(monkeypatch, task):
    before = dict(task.encoder_choices.classes)
    for kind in KINDS.values():
        monkeypatch.delitem(task.encoder_choices.classes, kind.compact)
    registration.register()
    registration.register()
    assert task.encoder_choices.classes == before
    for kind in KINDS.values():
        assert task.encoder_choices.get_class(kind.compact).kind is kind
    student = task.model_choices.get_class("prune")
    assert issubclass(student, task.model_choices.get_class("espnet"))


@pytest.mark.slow  # a bare process, as ESPnet spawns them, knows our task
def test_spawned_worker_is_registered(python):
    # A spawned worker starts bare and unpickles the function that it is to run; here
    # it also imports the package before ESPnet.
    worker = pickle.dumps(PruneASRTask.main_worker).hex()
    code = (
        f"import pickle; pickle.loads(bytes.fromhex('{worker}'))\n"
        "from espnet2.tasks.asr import *\n"
        "print('names', encoder_choices.get_class('prunable_conformer').__name__,"
        " decoder_choices.get_class('prunable_transformer').__name__,"
        " model_choices.get_class('prune').__name__)"
    )
    result = python("-c", code)
    names = "names PrunableConformerEncoder PrunableTransformerDecoder PruneASRModel"
    assert names in result.stdout, result.stderr


@pytest.fixture
def late_registry(tmp_path, monkeypatch):
    """A registry module that is not imported yet, in place of ESPnet's."""
    (tmp_path / "late_registry.py").write_text("ready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(registration, "REGISTRIES", {"late_registry": "asr"})
    seen = []
    monkeypatch.setattr(registration, "_add_to", lambda m, task: seen.append(m.ready))
    yield seen
    sys.modules.pop("late_registry", None)


def test_registered_once_espnet_is_imported_later(late_registry):
    registration.register()
    registration.register()
    assert late_registry == []
    import late_registry as module

    assert late_registry == [True] and module.ready
    assert not [f for f in sys.meta_path if getattr(f, "name", "") == "late_registry"]


def test_looking_for_espnet_without_importing_it_loses_no_registration(late_registry):
    import importlib.util

    registration.register()
    assert importlib.util.find_spec("late_registry") is not None
    import late_registry as module

    assert module.ready and late_registry == [True]

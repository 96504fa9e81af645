import pickle
import sys

import pytest
from espnet2.tasks import asr

from espnet_prune.training import registration
from espnet_prune.families.espnet.conformer import PrunableConformerEncoder
from espnet_prune.training.student import PruneASRModel
from espnet_prune.training.task import PruneASRTask

NAME = "prunable_conformer"


def test_import_alone_is_light(python):
    code = "import espnet_prune, sys; print(*sys.modules)"
    loaded = set(python("-c", code).stdout.split())
    assert "espnet_prune" in loaded
    assert not {"torch", "espnet", "espnet2", "numpy", "yaml"} & loaded


def test_registered_after_espnet_was_imported(monkeypatch):
    monkeypatch.delitem(asr.encoder_choices.classes, NAME)
    registration.register()
    assert asr.encoder_choices.get_class(NAME) is PrunableConformerEncoder


def test_registering_twice_changes_nothing():
    before = dict(asr.encoder_choices.classes)
    registration.register()
    registration.register()
    assert asr.encoder_choices.classes == before


def test_spawned_worker_is_registered(python):
    # A spawned worker starts bare and unpickles the function that it is to run; here
    # it also imports the package before ESPnet.
    worker = pickle.dumps(PruneASRTask.main_worker).hex()
    code = (
        f"import pickle; pickle.loads(bytes.fromhex('{worker}'))\n"
        "from espnet2.tasks.asr import encoder_choices, model_choices\n"
        "print('names', encoder_choices.get_class('prunable_conformer').__name__,"
        " model_choices.get_class('prune').__name__)"
    )
    result = python("-c", code)
    names = f"names {PrunableConformerEncoder.__name__} {PruneASRModel.__name__}"
    assert names in result.stdout, result.stderr


def test_a_program_run_through_the_package_hands_it_to_spawned_processes(
    python, tmp_path, monkeypatch
):
    # ESPnet's multi-GPU training spawns; these programs know nothing of the package.
    (tmp_path / "some_program.py").write_text(
        "import sys, multiprocessing\n"
        "def look():\n"
        "    from espnet2.tasks.asr import encoder_choices\n"
        "    print('child', 'prunable_conformer' in encoder_choices.classes)\n"
        "def main():\n"
        "    print('arguments', *sys.argv)\n"
        "    child = multiprocessing.get_context('spawn').Process(target=look)\n"
        "    child.start()\n"
        "    child.join()\n"
        "    return child.exitcode\n"
    )
    program = ["-m", "some_program", "--option", "1"]
    monkeypatch.chdir(tmp_path)
    result = python("-m", "espnet_prune", *program)
    assert "arguments some_program --option 1" in result.stdout
    assert "child True" in result.stdout and result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "runs modules only"),
        (["espnet2.bin.asr_train"], "runs modules only"),
        (["-m", "espnet2.bin.no_such"], "there is no such module"),
        (["-m", "espnet2.bin"], "has no main()"),
    ],
)
def test_what_cannot_be_run_through_the_package_is_refused(python, arguments, told):
    result = python("-m", "espnet_prune", *arguments)
    assert result.returncode == 2 and told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "program", ["asr_train", "asr_inference", "prune_train", "export", "measure"]
)
def test_programs_of_the_recipe_download_nothing(
    python, tmp_path, monkeypatch, program
):
    monkeypatch.delenv("NLTK_DATA")
    # A dependency of ESPnet asks nltk for data as soon as it is imported.
    (tmp_path / "sitecustomize.py").write_text(
        "import nltk\n"
        "def download(*args, **kwargs): raise SystemExit(f'asked for {args}')\n"
        "nltk.download = download\n"
    )
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import sitecustomize; "
    result = python("-c", f"{code}import espnet_prune.cli.{program}")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def late_registry(tmp_path, monkeypatch):
    """A registry module that is not imported yet, in place of ESPnet's."""
    (tmp_path / "late_registry.py").write_text("ready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(registration, "REGISTRY", "late_registry")
    seen = []
    monkeypatch.setattr(registration, "_add_to", lambda m: seen.append(m.ready))
    yield seen
    sys.modules.pop("late_registry", None)


def test_registered_once_espnet_is_imported_later(late_registry):
    registration.register()
    registration.register()
    assert late_registry == []
    import late_registry as module

    assert late_registry == [True] and module.ready
    assert not [f for f in sys.meta_path if "AfterImport" in type(f).__name__]


def test_looking_for_espnet_without_importing_it_loses_no_registration(late_registry):
    import importlib.util

    registration.register()
    assert importlib.util.find_spec("late_registry") is not None
    import late_registry as module

    assert module.ready and late_registry == [True]

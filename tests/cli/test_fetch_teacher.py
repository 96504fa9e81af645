"""A published model, fetched to be pruned."""

import contextlib
import sys
import zipfile

import pytest
import requests
import torch
from espnet2.main_funcs import pack_funcs
from espnet_model_zoo.downloader import ModelDownloader
from huggingface_hub.errors import LocalEntryNotFoundError

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.cli import fetch_teacher
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.tasks import ASR, S2T, Task
from tests.recipe_copy import copy_recipe, start


@pytest.fixture
def published(dense, tmp_path):
    """A zip of the dense model, as ESPnet's own stage 14 packs it."""

    def make(name="published.zip", model=dense, task=ASR):
        with contextlib.chdir(model):
            pack_funcs.pack(
                {task.weights_option: "model.pth"},
                {task.config_option: "config.yaml"},
                tmp_path / name,
                [str(model / "feats_stats.npz")],
            )
        return tmp_path / name

    return make


def fetch(monkeypatch, tag, out):
    monkeypatch.setattr(sys, "argv", ["fetch", "--tag", str(tag), "--out", str(out)])
    fetch_teacher.main()


def test_a_fetched_teacher_is_the_published_one_also_when_it_changed(
    published, dense, tmp_path, monkeypatch
):
    out = tmp_path / "exp/teacher"
    fetch(monkeypatch, published(), out)
    weights = torch.load(dense / "model.pth")
    fetched = torch.load(out / "model.pth")
    assert fetched.keys() == weights.keys()
    assert all(fetched[key].equal(value) for key, value in weights.items())
    changed = {key: value + 1 for key, value in weights.items()}
    torch.save(changed, dense / "model.pth")
    try:
        fetch(monkeypatch, published(), out)
    finally:
        torch.save(weights, dense / "model.pth")
    again = torch.load(out / "model.pth")
    assert all(again[key].equal(value) for key, value in changed.items())


def test_a_model_of_another_task_is_fetched_or_refused_by_what_it_holds(
    published, dense, owsm, tmp_path, monkeypatch
):
    out = tmp_path / "exp/owsm"
    fetch(monkeypatch, published(model=owsm, task=S2T), out)
    assert load_model(out / "config.yaml", out / "model.pth")[1].preprocessor == "s2t"
    with pytest.raises(InputError, match=r"holds \['tts_.* -> give one of the tasks"):
        fetch(monkeypatch, published(task=Task("tts")), tmp_path / "exp/tts")


def test_a_damaged_zip_leaves_the_teacher_that_was_fetched(
    published, tmp_path, monkeypatch
):
    out, zipped = tmp_path / "exp/teacher", published()
    fetch(monkeypatch, zipped, out)
    before = (out / "model.pth").read_bytes()
    whole = zipfile.ZipFile(zipped)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as damaged:
        for name in whole.namelist():
            data = whole.read(name)
            damaged.writestr(name, b"no weights" if name == "model.pth" else data)
    (tmp_path / "other.zip").replace(zipped)
    with pytest.raises(InputError):
        fetch(monkeypatch, zipped, out)
    assert (out / "model.pth").read_bytes() == before


def test_what_cannot_be_fetched_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be had"):
        fetch(monkeypatch, tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        fetch(monkeypatch, tmp_path / "missing.zip", tmp_path / "out")
    assert not (tmp_path / "out/config.yaml").exists()


@pytest.mark.parametrize(
    "raised",
    [
        # Of a Hugging Face repository, of a name in the zoo's table; some say nothing.
        LocalEntryNotFoundError("Got: ConnectError: no such host\nAn error happened"),
        requests.ConnectionError("HTTPSConnectionPool(host='zenodo.org', port=443)"),
        TimeoutError(),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_without_a_network_a_tag_is_one_clear_line(
    tmp_path, monkeypatch, capsys, raised
):
    def offline(self, name):
        raise raised

    monkeypatch.setattr(ModelDownloader, "download_and_unpack", offline)
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: fetch(monkeypatch, "owner/name", tmp_path / "out"))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --teacher_tag owner/name: cannot be had (")
    assert type(raised).__name__ in line and "check the tag and the network" in line


@pytest.mark.slow  # run.sh checks again once the model is there
def test_what_a_fetched_model_cannot_have_is_refused_before_the_data(
    published, tmp_path
):
    run = copy_recipe(tmp_path) / "run.sh"
    options = ("--prune_args", "--sparsity groups.fnn=0.3")
    result = start(run, "--teacher_tag", str(published()), *options)
    assert result.returncode == 2 and "stage 1:" not in result.stdout
    assert "groups ['fnn'] are not among" in result.stderr.splitlines()[-1]

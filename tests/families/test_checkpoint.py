import argparse
import os

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.checkpoint import (
    load_model,
    read_checkpoint,
    read_state,
)
from espnet_prune.serving import load as loading
from espnet_prune.serving.load import load


def test_dense_model_is_loaded_in_evaluation_mode(dense):
    model, args = load_model(dense / "config.yaml", dense / "model.pth")
    assert not model.training and args.encoder == "conformer"
    state = torch.load(dense / "model.pth")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_training_checkpoint_gives_its_model(pruned):
    state, model = read_state(pruned / "checkpoint.pth"), pruned / "latest.pth"
    assert state.keys() == torch.load(model).keys()


@pytest.mark.parametrize("mmap", [False, True])
def test_training_state_that_espnet_writes_is_read_whole(pruned, mmap):
    path = pruned / "checkpoint.pth"
    whole = torch.load(path, weights_only=False)
    read = read_checkpoint(path, mmap)
    assert read.keys() == whole.keys()
    assert read["reporter"]["epoch"] == 2
    assert str(read["reporter"]) == str(whole["reporter"])  # with NaN in it
    states = [s["optimizers"][0]["state"] for s in (read, whole)]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(*states, rtol=0, atol=0)


class Code:
    """What runs a command where it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["code", "object"])
def test_checkpoint_that_holds_more_than_weights_is_refused_and_not_run(
    dense, tmp_path, kind, zipped
):
    path, ran = tmp_path / "found.pth", tmp_path / "ran"
    more = Code(f"touch {ran}") if kind == "code" else argparse.Namespace(a=1)
    state = torch.load(dense / "model.pth") | {"more": more}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    named = "posix.system" if kind == "code" else "argparse.Namespace"
    with pytest.raises(InputError, match=f"{path}: holds more than .*{named}.* -> "):
        load_model(dense / "config.yaml", path)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["config.yaml", "model.pth"])
def test_missing_file_is_named(dense, tmp_path, name):
    paths = {n: dense / n for n in ("config.yaml", "model.pth")}
    for wrong, what in ((tmp_path / name, "does not exist"), (dense, "is a directory")):
        with pytest.raises(InputError, match=f"{wrong}: {what}"):
            load_model(*(paths | {name: wrong}).values())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is no readable checkpoint"),
        (b"no checkpoint", "is no readable checkpoint"),
        ([1, 2], "holds no model weights"),
        ({"ctc.ctc_lo.bias": torch.zeros(99)}, "does not fit .*ctc_lo.bias"),
    ],
)
def test_file_that_holds_no_weights_of_the_model_is_named(
    dense, tmp_path, content, what
):
    path = tmp_path / "bad.pth"
    if isinstance(content, dict):
        content = torch.load(dense / "model.pth") | content
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"bad.pth: {what}"):
        load_model(dense / "config.yaml", path)


WRAPPERS = {
    "deepspeed": lambda state: {"module": state},
    "lightning": lambda state: {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "epoch": 3,
    },
    "ddp": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_trainers_put_around_weights_is_taken_off(
    dense, tmp_path, monkeypatch, wrapper
):
    monkeypatch.setattr(loading, "has_runtime", lambda: False)  # of no interest here
    state = torch.load(dense / "model.pth")
    torch.save(WRAPPERS[wrapper](state), tmp_path / "wrapped.pth")
    model, _ = load_model(dense / "config.yaml", tmp_path / "wrapped.pth")
    # ESPnet's own decoder would not read it.
    decoder = load(dense / "config.yaml", tmp_path / "wrapped.pth", beam_size=1)
    head = decoder.asr_model.ctc.ctc_lo.weight
    assert torch.equal(head, state["ctc.ctc_lo.weight"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1\noid", "<!doctype html>\n<p>"]
)
def test_text_in_place_of_weights_is_shown(dense, tmp_path, text):
    (tmp_path / "a.pth").write_text(text)
    first = text.split("\n")[0]
    with pytest.raises(InputError, match=f"but a text, '{first}' -> git lfs pull"):
        load_model(dense / "config.yaml", tmp_path / "a.pth")


@pytest.mark.parametrize(
    "options",
    [
        {"ctc_conf": {"ctc_type": "warpctc"}},
        {"frontend": "s3prl", "frontend_conf": {"frontend_conf": {"upstream": "x"}}},
        {"decoder_conf": {"no_such_option": 1}},
    ],
    ids=str,
)
def test_model_that_cannot_be_built_here_is_one_line(dense, tmp_path, options):
    config = yaml.safe_load((dense / "config.yaml").read_text()) | options
    moved = tmp_path / "config.yaml"
    moved.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="cannot build its model here"):
        load_model(moved, dense / "model.pth")


def test_config_whose_paths_lead_nowhere_is_refused_by_option(dense, tmp_path):
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["normalize_conf"] = {"stats_file": "exp/elsewhere/feats_stats.npz"}
    moved = tmp_path / "config.yaml"
    moved.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="normalize_conf.stats_file exp/elsewhere"):
        load_model(moved, dense / "model.pth")


def test_weights_of_a_training_that_diverged_are_refused(dense, tmp_path):
    state = torch.load(dense / "model.pth")
    state["ctc.ctc_lo.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(
        InputError, match=r"nan.pth: holds .* not finite, in ctc.ctc_lo"
    ):
        load_model(dense / "config.yaml", tmp_path / "nan.pth")

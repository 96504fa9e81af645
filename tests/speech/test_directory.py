"""A directory of Hugging Face goes in, and one that its users' tools load comes out."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModel, AutoModelForCTC, HubertConfig, HubertForCTC

from espnet_prune.base.errors import InputError
from espnet_prune.cli import ssl_export
from espnet_prune.export import ssl as exporting
from espnet_prune.families.ssl.directory import locate, name_of
from espnet_prune.families.ssl.model import read
from tests.families.test_speech_encoders import BASE, TINY
from tests.speech.training import train

CLEAN = """
import sys, torch
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForCTC
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
print(model(torch.zeros(1, 900)).last_hidden_state.shape[2])
heads = {"vocab_size": 5}, {"num_labels": 3}
for auto, head in zip((AutoModelForCTC, AutoModelForAudioClassification), heads):
    model = auto.from_pretrained(folder, trust_remote_code=True, **head)
    model(torch.randn(2, 900)).logits.sum().backward()
assert "espnet_prune" not in sys.modules
"""


def test_compact_model_meets_its_target_and_loads_without_this_package(compact):
    told = json.loads((compact / "pruning.json").read_text())
    assert told["params"] < 0.55 * told["dense_params"]
    assert min(told["removed"].values()) >= 0.5 and told["max_relative_error"] < 1e-12
    modes = {path.stat().st_mode & 0o777 for path in compact.iterdir()}
    assert len(modes) == 1  # who may read the config may read the weights
    config = json.loads((compact / "config.json").read_text())
    assert config["layerdrop"] == 0.1 and config["apply_spec_augment"]
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", CLEAN, str(compact)]
    result = subprocess.run(command, env=own, cwd="/", capture_output=True, text=True)
    assert result.stdout == "16\n", result.stderr


def test_the_same_export_is_kept_and_another_run_refused(
    dense, crops, pruned, compact, caplog
):
    with caplog.at_level("INFO"):
        ssl_export.main(["--pruned", str(pruned), "--out", str(compact)])
    assert "holds this very model: kept" in caplog.text
    before = {path.name: path.read_bytes() for path in pruned.glob("*.yaml")}
    for options, told in (
        (("--max_epoch", 2, "--kind", "macs"), "holds a training of other options"),
        (("--max_epoch", 4, "--kind", "params+macs"), "was begun for 2 epochs"),
    ):
        with pytest.raises(InputError, match=told):
            train(dense, crops, pruned, "prune", *options)
    assert {path.name: path.read_bytes() for path in pruned.glob("*.yaml")} == before


def test_another_export_moves_what_was_made_of_the_last(dense, crops, tmp_path):
    out, distilled = tmp_path / "small", tmp_path / "small_distilled"
    for method in ("magnitude", "random"):
        run = tmp_path / method
        train(dense, crops, run, "prune", "--method", method)
        ssl_export.main(["--pruned", str(run), "--out", str(out)])
        assert not distilled.exists()
        distilled.mkdir()
        (distilled / "of").write_text(method)
    assert (tmp_path / "small_distilled.1/of").read_text() == "magnitude"
    assert json.loads((tmp_path / "small.1/pruning.json").read_text())["method"] == (
        "magnitude"
    )


def test_a_cost_that_is_not_the_budgets_is_refused(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "count_macs", lambda *_: 1.0)
    with pytest.raises(RuntimeError, match="macs are left by declaration, 1 by"):
        ssl_export.main(["--pruned", str(pruned), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_compact_model_loads_without_its_code_where_this_package_is(compact):
    model = AutoModel.from_pretrained(compact)
    assert type(model).__module__ == "espnet_prune.families.ssl.pruned_speech"
    own, again = model.state_dict(), read(compact).state_dict()
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize("which", ["dense", "compact"])
def test_no_layer_is_dropped_while_a_model_is_trained(which, request):
    """Neither in the pruning nor in the distillation of what has LayerDrop."""
    model, audio = read(request.getfixturevalue(which)).train(), torch.randn(2, 900)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
            layer.dropout = 0.0
    first = model(audio).last_hidden_state
    for _ in range(40):
        torch.testing.assert_close(model(audio).last_hidden_state, first)


def test_head_of_a_fine_tuned_model_goes_along(crops, tmp_path):
    """A recognizer comes back as one, pruned without labels."""
    dense = tmp_path / "recognizer"
    torch.manual_seed(0)
    HubertForCTC(HubertConfig(**TINY, **BASE, vocab_size=7)).save_pretrained(dense)
    (dense / "vocab.json").write_text("{}")
    train(dense, crops, tmp_path / "run", "prune", "--method", "magnitude")
    out = tmp_path / "compact"
    for _ in range(2):  # the second time it is kept
        ssl_export.main(["--pruned", str(tmp_path / "run"), "--out", str(out)])
    assert not list(tmp_path.glob("compact.*")) and (out / "vocab.json").is_file()
    own, whole = (AutoModelForCTC.from_pretrained(folder) for folder in (out, dense))
    assert torch.equal(own.lm_head.weight, whole.lm_head.weight)
    audio = torch.randn(2, 4000)
    with torch.no_grad():
        states = read(out)(audio).last_hidden_state
        torch.testing.assert_close(own.eval()(audio).logits, whole.lm_head(states))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "bert"}, "type 'bert' cannot be pruned -> give one of hubert"),
        ({"conv_pos_batch_norm": True}, "BatchNorm behind the positional convolution"),
    ],
)
def test_what_cannot_be_pruned_is_named(dense, tmp_path, change, told):
    config = json.loads((dense / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=told):
        read(tmp_path)


def test_name_on_hugging_face_stands_for_a_directory(dense, tmp_path, monkeypatch):
    asked, old = [], tmp_path

    def download(name, allow_patterns):
        asked.append((name, "*.bin" in allow_patterns))
        if name == "no/model":
            raise LocalEntryNotFoundError("no network")
        return str(old if name == "owner/old" else dense)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate(dense) == dense and locate("owner/name") == dense
    with pytest.raises(InputError, match="is no directory, nor .*: no network"):
        locate("no/model")
    assert locate("owner/old") == old
    # Weights in the old form are fetched only where there are no others.
    names = ["owner/name", "no/model", "owner/old", "owner/old"]
    assert asked == [*zip(names, (False, False, False, True), strict=True)]


def test_model_card_names_the_dense_model_as_others_know_it(compact, dense):
    assert f"made smaller from `{dense.name}`" in (compact / "README.md").read_text()
    cached = "/x/hub/models--their--hubert-base--2/snapshots/0a1b"
    assert name_of(cached) == "their/hubert-base--2"

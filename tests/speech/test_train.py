"""A self-supervised encoder is pruned without labels, and distilled."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.cli import ssl_audio, ssl_export
from espnet_prune.families.ssl.model import read
from espnet_prune.training.trainer import PruneTrainer
from tests.speech.training import train
from tests.training.test_resume import Killed, assert_same_run, kill_in_epoch


def test_killed_pruning_ends_where_it_would_have_ended(
    dense, crops, pruned, tmp_path, monkeypatch
):
    options = ("--max_epoch", 2, "--kind", "params+macs")
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, PruneTrainer, 2)
        with pytest.raises(Killed):
            train(dense, crops, tmp_path, "prune", *options)
    assert not (tmp_path / "2epoch.pth").exists()
    train(dense, crops, tmp_path, "prune", *options)
    assert_same_run(pruned, tmp_path)


def test_distillation_brings_it_nearer_to_the_dense_model(dense, compact, crops):
    run = compact.with_name("distil")
    options = "--compact", compact, "--max_epoch", 2, "--optim_conf", "lr=0.01"
    train(dense, crops, run, "distil", *options)
    audio = torch.randn(4, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = read(dense)(audio).last_hidden_state
        before, after = (
            (read(folder)(audio).last_hidden_state - wanted).abs().mean()
            for folder in (compact, compact.with_name("compact_distilled"))
        )
    assert after < before


@pytest.mark.parametrize("method", ["magnitude", "blocks", "small_distilled"])
def test_baselines_meet_the_same_target_without_training(
    dense, crops, tmp_path, method
):
    train(dense, crops, tmp_path / "run", "prune", "--method", method)
    assert not (tmp_path / "run/checkpoint.pth").exists()
    out = tmp_path / "compact"
    ssl_export.main(["--pruned", str(tmp_path / "run"), "--out", str(out)])
    told = json.loads((out / "pruning.json").read_text())
    assert told["method"] == method and 0.5 <= told["removed"]["params"] < 0.6
    blocks = told["architecture"]["blocks"]
    whole = [b["heads"] == 4 and b["ffn"] == 24 for b in blocks]
    assert any(whole) == (method == "blocks")
    kept, own = (load_file(f / "model.safetensors") for f in (out, dense))
    same = torch.equal(kept["masked_spec_embed"], own["masked_spec_embed"])
    assert same == (method != "small_distilled")
    short = ("--compact", out, "--max_epoch", 1)
    train(dense, crops, tmp_path / "distil", "distil", *short)
    config = yaml.safe_load((tmp_path / "distil/config.yaml").read_text())
    assert config["max_epoch"] == (2 if method == "small_distilled" else 1)


def test_latency_is_a_target_measured_before_anything_is_written(
    dense, crops, tmp_path, few_points
):
    run, out = tmp_path / "run", tmp_path / "compact"
    options = ("--kind", "latency", "--method", "magnitude")
    options += ("--sparsity", "macs_seconds=0.5")
    shared = ("--latency_table", tmp_path / "latency.json")
    train(dense, crops, run, "prune", *options, *shared)
    prices = json.loads((run / "latency.json").read_text())["prices"]
    assert (tmp_path / "latency.json").is_file() and sum(prices.values()) > 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model_conf"]["budget"]["latency"] == prices
    ssl_export.main(["--pruned", str(run), "--out", str(out)])
    told = json.loads((out / "pruning.json").read_text())
    assert told["removed"]["latency"] >= 0.5


def test_next_rung_goes_on_from_the_gates_of_the_last(dense, crops, pruned, tmp_path):
    still = (
        "--sparsity",
        "gate_lr=0.000000000001",
        "--sparsity",
        "multiplier_lr=0.000000000001",
    )
    options = ("--previous", pruned, "--target", 0.7, "--kind", "params+macs")
    train(dense, crops, tmp_path / "run", "prune", *options, "--max_epoch", 1, *still)
    first, second = (
        torch.load(folder / "latest.pth") for folder in (pruned, tmp_path / "run")
    )
    torch.testing.assert_close(first["gates.log_alpha"], second["gates.log_alpha"])
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert set(config["model_conf"]["sparsity"]["start"].values()) == {0.5}


def test_from_python_a_directory_and_a_folder_give_a_small_model(
    dense, audio, tmp_path, capfd
):
    short = ("--max_epoch", "1", "--use_tensorboard", "false")
    options = {"prune_options": short, "distil_options": short, "seconds": 1, "nj": 1}
    out = tmp_path / "out"
    model = espnet_prune.prune_speech(dense, audio, out, target=0.6, **options)
    assert model.num_parameters() < 0.4 * read(dense).num_parameters() + 100
    assert "epoch 1/1" in capfd.readouterr().out
    again = AutoModel.from_pretrained(out / "compact_distilled")
    audio = torch.randn(1, 4000)
    with torch.no_grad():
        pair = (m.eval()(audio).last_hidden_state for m in (model, again))
        torch.testing.assert_close(*pair)
    with pytest.raises(InputError, match="must be in|fraction to remove"):
        espnet_prune.prune_speech(dense, "nowhere", tmp_path / "no", target=1.5)
    assert not (tmp_path / "no").exists()


def test_wrong_input_is_named(dense, crops, tmp_path):
    with pytest.raises(InputError, match="holds no config.json"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds no recordings"):
        ssl_audio.main(["--audio", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="cannot be removed"):
        train(dense, crops, tmp_path / "run", "prune", "--target", 0.999)
    with pytest.raises(InputError, match="small: .* without labels it follows"):
        train(dense, crops, tmp_path / "run", "prune", "--method", "small")
    for option in ("distill output_weight=2", "sparsity denominator=model"):
        section, change = option.split()
        with pytest.raises(InputError, match=f"{section}: .* cannot be used so: it"):
            train(dense, crops, tmp_path / "run", "prune", f"--{section}", change)
    with pytest.raises(InputError, match="slim: is unknown"):
        espnet_prune.prune_speech(dense, "x", tmp_path / "out", method="slim")


def test_what_is_pruned_already_is_not_pruned_again(compact, crops, tmp_path):
    with pytest.raises(InputError, match="is pruned already -> give the dense model"):
        train(compact, crops, tmp_path / "run", "prune")

"""Several sizes from one run: each rung goes on from the gates of the last."""

import sys

import pytest
import torch
import yaml

from espnet_prune.errors import InputError
from tests.conftest import RECIPE


@pytest.fixture
def prune(dense, data_options, tmp_path, monkeypatch):
    """``prune(out, target, *options)``: stage 12 in this process."""
    from espnet_prune.bin import prune_train

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))

    def run(out, target, *options):
        argv = ["prune_train", "--phase", "prune", "--recipe", str(recipe)]
        argv += ["--model_config", str(dense / "config.yaml"), "--resume", "true"]
        argv += ["--model_file", str(dense / "model.pth"), "--target", str(target)]
        argv += ["--teacher_config", str(dense / "config.yaml")]
        argv += ["--teacher_model", str(dense / "model.pth"), *data_options]
        argv += ["--output_dir", str(out), *map(str, options)]
        monkeypatch.setattr(sys, "argv", argv)
        prune_train.main()
        return torch.load(out / "latest.pth")

    return run


def test_rung_goes_on_from_gates_weights_and_multipliers(prune, tmp_path):
    first = prune(tmp_path / "a", 0.5)
    steps = first["sparsity.step"].item()
    # Not a step of training: what it starts with is what the first left.
    options = ["--previous", tmp_path / "a", "--max_epoch", "0"]
    prune_config = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert prune_config["model_conf"]["sparsity"].get("start", 0) == 0
    with pytest.raises(FileNotFoundError):
        prune(tmp_path / "b", 0.75, *options)
    config = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    assert config["model_conf"]["sparsity"]["start"] == 0.5
    second = prune(tmp_path / "c", 0.75, "--previous", tmp_path / "a")
    assert second["sparsity.step"].item() == steps  # counted anew
    started = prune(
        tmp_path / "d", 0.75, "--previous", tmp_path / "a", "--optim_conf", "lr=0.0"
    )
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    torch.testing.assert_close(started[name], first[name])
    dense_start = prune(tmp_path / "e", 0.75, "--optim_conf", "lr=0.0")
    assert not torch.allclose(dense_start[name], first[name])


def test_rung_that_does_not_rise_is_refused(prune, tmp_path):
    prune(tmp_path / "a", 0.5)
    with pytest.raises(InputError, match="start"):
        prune(tmp_path / "b", 0.4, "--previous", tmp_path / "a")


def test_rung_without_the_one_before_is_refused(prune, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        prune(tmp_path / "b", 0.75, "--previous", tmp_path / "a")

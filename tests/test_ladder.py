"""Several sizes from one run: each rung goes on from the gates of the last."""

import sys

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from tests.fixtures.runs import RECIPE


@pytest.fixture
def prune(dense, data_options, tmp_path, monkeypatch):
    """``prune(out, target, *options)``: stage 12 in this process."""
    from espnet_prune.cli import prune_train

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))

    def run(out, target, *options):
        argv = ["prune_train", "--phase", "prune", "--recipe", str(recipe)]
        argv += ["--model_config", str(dense / "config.yaml"), "--resume", "true"]
        argv += ["--model_file", str(dense / "model.pth")]
        argv += ["--target", str(target)] if target is not None else []
        argv += ["--teacher_config", str(dense / "config.yaml")]
        argv += ["--teacher_model", str(dense / "model.pth"), *data_options]
        argv += ["--output_dir", str(out), *map(str, options)]
        monkeypatch.setattr(sys, "argv", argv)
        prune_train.main()
        return torch.load(out / "latest.pth")

    return run


FROZEN = ("--optim_conf", "lr=0.0", "--optim_conf", "weight_decay=0.0")


def test_rung_goes_on_from_gates_weights_and_multipliers(prune, tmp_path):
    first = prune(tmp_path / "a", 0.5, "--method", "l0")
    assert first["sparsity.lambda2"].item() > 0
    steps = first["sparsity.step"].item()
    # One step with learning rates of 0 shows what a rung starts with.
    still = tmp_path / "still.yaml"
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["sparsity"] |= {"gate_lr": 1e-12, "multiplier_lr": 1e-12}
    still.write_text(yaml.safe_dump(recipe))
    options = ("--recipe", still, "--max_epoch", 1, *FROZEN)
    second = prune(tmp_path / "b", 0.75, "--previous", tmp_path / "a", *options)
    for name in first:
        if name.endswith("log_alpha") or "lambda" in name or ".weight" in name:
            torch.testing.assert_close(second[name], first[name], msg=name)
    assert second["sparsity.step"].item() == steps / 2  # counted anew
    config = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    start = config["model_conf"]["sparsity"]["start"]
    assert start == {"encoder/params": pytest.approx(0.5)}
    alone = prune(tmp_path / "c", 0.75, *options)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    assert not torch.allclose(alone[name], first[name])


def test_iterative_masks_go_up_the_ladder_too(prune, tmp_path):
    from espnet_prune.export.export import export

    iterative = ("--method", "iterative")
    prune(tmp_path / "a", 0.5, *iterative)
    prune(tmp_path / "b", 0.75, *iterative, "--previous", tmp_path / "a")
    summary = export(
        tmp_path / "b/config.yaml", tmp_path / "b/latest.pth", tmp_path / "out"
    )
    assert summary["realised_before_projection"] == pytest.approx(0.75, abs=0.03)


def test_unfinished_rung_is_not_gone_on_from(prune, tmp_path):
    prune(tmp_path / "a", 0.5, "--max_epoch", 1)
    config = tmp_path / "a/config.yaml"
    config.write_text(config.read_text().replace("max_epoch: 1\n", "max_epoch: 2\n"))
    with pytest.raises(InputError, match="stopped after epoch 1"):
        prune(tmp_path / "b", 0.75, "--previous", tmp_path / "a")


def test_rung_that_does_not_rise_is_refused(prune, tmp_path):
    prune(tmp_path / "a", 0.5)
    with pytest.raises(InputError, match="start"):
        prune(tmp_path / "b", 0.4, "--previous", tmp_path / "a")


MODEL_DIM = ("--gates", "model_dim=true")


def test_model_dimension_goes_up_the_ladder(prune, tmp_path):
    first = prune(tmp_path / "a", 0.5, *MODEL_DIM)
    again = ("--previous", tmp_path / "a", "--max_epoch", 1)
    second = prune(tmp_path / "b", 0.75, *MODEL_DIM, *again, *FROZEN)
    assert second["sparsity.lambda1"].shape == first["sparsity.lambda1"].shape == (2,)
    config = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    start = config["model_conf"]["sparsity"]["start"]
    # As much as the units thin out: 1 - sqrt(1 - 0.5).
    assert start["model_dim"] == pytest.approx(1 - 0.5**0.5)
    less = ("--sparsity", "model_dim=0.1")
    with pytest.raises(InputError, match="of model_dim, is beyond the target 0.100"):
        prune(tmp_path / "c", 0.75, *MODEL_DIM, *again, *less)
    with pytest.raises(InputError, match="was pruned with model_dim: true"):
        prune(tmp_path / "c", 0.75, *again)
    assert not (tmp_path / "c/config.yaml").exists()


def test_rung_without_the_one_before_is_refused(prune, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        prune(tmp_path / "b", 0.75, "--previous", tmp_path / "a")


def test_refused_start_leaves_a_run_that_resumes(prune, dense, tmp_path):
    """Its prices in seconds are the run's own; another table would be another run."""
    out, shared = tmp_path / "a", tmp_path / "dense/latency.json"
    latency = ("--kind", "latency", "--latency_table", shared, "--sparsity")
    prune(out, 0.2, *latency, "macs_seconds=0.5")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    assert before["latency.json"] == shared.read_bytes()
    with pytest.raises(InputError, match="other options"):
        prune(out, 0.2, *latency, "macs_seconds=1.0")
    with pytest.raises(InputError, match="cannot be removed"):
        prune(out, 0.999, *latency, "macs_seconds=1.0")
    assert not list(out.glob("*.new.*"))
    # What a killed start left is nobody's table.
    (out / "latency.new.json").write_text("{}")
    prune(out, 0.2, *latency, "macs_seconds=0.5")
    for name in ("latency.json", "student.yaml", "config.yaml", "latest.pth"):
        assert (out / name).read_bytes() == before[name], name
    assert not list(out.glob("*.new.*")) and not (dense / "latency.json").exists()


def test_options_of_a_recipe_can_be_given_one_by_one(prune, tmp_path):
    options = ("--sparsity", "macs_seconds=0.5", "--distill", "layer_weight=0.25")
    prune(tmp_path / "a", 0.3, *options, "--distill", "layers=1", "--max_epoch", 1)
    config = yaml.safe_load((tmp_path / "a/config.yaml").read_text())["model_conf"]
    assert config["distill"] == RECIPE["distill"] | {"layer_weight": 0.25, "layers": 1}
    assert config["sparsity"]["macs_seconds"] == 0.5
    assert config["macs_frames"] == 8000 // 128 + 1


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--sparsity", "target=0.9999"), "cannot be removed"),
        (("--distill", "layer_wight=2"), "layer_wight"),
        (("--model_conf", "sparsity.macs_seconds=3.0"), "give --gates, --sparsity"),
        (("--model_conf", "distill.layers=1"), "give --gates, --sparsity"),
        (("--encoder_conf", "gates.mode=straight_through"), "give --gates, --sparsity"),
    ],
)
def test_option_that_does_not_fit_the_plan_is_refused(prune, tmp_path, option, named):
    target = 0.3 if "target=" not in option[1] else None
    with pytest.raises(InputError, match=named):
        prune(tmp_path / "a", target, *option)
    assert not (tmp_path / "a" / "config.yaml").exists()

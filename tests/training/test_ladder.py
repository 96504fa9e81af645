"""Several sizes from one run: each rung goes on from the gates of the last."""

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.export.export import export
from tests.fixtures.runs import RECIPE


@pytest.fixture
def prune(train, tmp_path):
    """``prune(name, target, *options)``: a pruning run in a directory of that name."""

    def run(name, target, *options, **recipe):
        options = ("--target", target, *options)
        return train(tmp_path / name, *options, **recipe)

    return run


def plan_of(run) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())["model_conf"]


# One step with learning rates of 0 shows what a rung starts with.
STILL = {"sparsity": RECIPE["sparsity"] | {"gate_lr": 1e-12, "multiplier_lr": 1e-12}}
STILL |= {"max_epoch": 1, "optim_conf": {"lr": 0.0, "weight_decay": 0.0}}
MODEL_DIM = ("--gates", "model_dim=true")


def test_rung_goes_on_from_gates_weights_and_multipliers(prune, tmp_path):
    first = prune("a", 0.5, "--method", "l0")
    assert first["sparsity.lambda2"].item() > 0
    second = prune("b", 0.75, "--previous", tmp_path / "a", **STILL)
    for name in first:
        if name.endswith("log_alpha") or "lambda" in name or ".weight" in name:
            torch.testing.assert_close(second[name], first[name], msg=name)
    assert second["sparsity.step"] == first["sparsity.step"] / 2  # counted anew
    start = plan_of(tmp_path / "b")["sparsity"]["start"]
    assert start == {"encoder/params": pytest.approx(0.5)}
    alone = prune("c", 0.75, **STILL)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    assert not torch.allclose(alone[name], first[name])


def test_iterative_masks_go_up_the_ladder_too(prune, tmp_path):
    iterative = ("--method", "iterative")
    prune("a", 0.5, *iterative)
    prune("b", 0.75, *iterative, "--previous", tmp_path / "a")
    summary = export(
        tmp_path / "b/config.yaml", tmp_path / "b/latest.pth", tmp_path / "out"
    )
    assert summary["realised_before_projection"] == pytest.approx(0.75, abs=0.03)


def test_model_dimension_goes_up_the_ladder(prune, tmp_path):
    first = prune("a", 0.5, *MODEL_DIM)
    again = (*MODEL_DIM, "--previous", tmp_path / "a")
    second = prune("b", 0.75, *again, **STILL)
    assert second["sparsity.lambda1"].shape == first["sparsity.lambda1"].shape == (2,)
    start = plan_of(tmp_path / "b")["sparsity"]["start"]
    # As much as the units thin out: 1 - sqrt(1 - 0.5).
    assert start["model_dim"] == pytest.approx(1 - 0.5**0.5)
    with pytest.raises(InputError, match="of model_dim, is beyond the target 0.100"):
        prune("c", 0.75, *again, "--sparsity", "model_dim=0.1")
    with pytest.raises(InputError, match=f"^{tmp_path}/a: was pruned with model_dim"):
        prune("c", 0.75, "--previous", tmp_path / "a")
    with pytest.raises(InputError, match=f"^{tmp_path}/a: was pruned with blocks: fal"):
        prune("c", 0.75, *again, "--gates", "blocks=true")
    assert not (tmp_path / "c/config.yaml").exists()


def test_rung_needs_a_finished_one_below_it(prune, tmp_path):
    previous = ("--previous", tmp_path / "a")
    with pytest.raises(InputError, match="does not exist"):
        prune("b", 0.75, *previous)
    prune("a", 0.5, "--max_epoch", 1)
    with pytest.raises(InputError, match="start"):
        prune("b", 0.4, *previous)
    config = tmp_path / "a/config.yaml"
    config.write_text(config.read_text().replace("max_epoch: 1\n", "max_epoch: 2\n"))
    with pytest.raises(InputError, match="stopped after epoch 1"):
        prune("b", 0.75, *previous)


# --- what is refused leaves a run as it was -------------------------------------------


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--sparsity", "target=0.9999"), "cannot be removed"),
        (("--distill", "layer_wight=2"), "layer_wight"),
        (("--model_conf", "sparsity.macs_seconds=3.0"), "give --gates, --sparsity"),
        (("--model_conf", "budget.frames=7"), "give --gates, --sparsity"),
        (("--encoder_conf", "gates.mode=hard"), "--encoder_conf: .*unknown option"),
    ],
)
def test_option_that_does_not_fit_the_plan_is_refused(train, tmp_path, option, named):
    with pytest.raises(InputError, match=named):
        train(tmp_path / "a", *option)
    assert not list(tmp_path.glob("a/*"))


def files_of(run) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}


def test_refused_start_leaves_a_run_that_resumes(prune, dense, tmp_path, few_points):
    """Its prices in seconds are the run's own; another table would be another run."""
    shared = tmp_path / "dense/latency.json"
    latency = ("--kind", "latency", "--latency_table", shared, "--sparsity")
    prune("a", 0.2, *latency, "macs_seconds=0.5")
    before = files_of(tmp_path / "a")
    assert before["latency.json"] == shared.read_bytes()
    for target, seconds, options, named in (
        (0.2, 1.0, (), "other options"),
        (0.999, 1.0, ("--kind", "params"), "cannot be removed"),
        (0.2, 0.5, ("--max_epoch", 9), "^--max_epoch 9: .* begun for 2 epochs"),
    ):
        with pytest.raises(InputError, match=named):
            prune("a", target, *latency, f"macs_seconds={seconds}", *options)
        assert files_of(tmp_path / "a") == before
    # What a killed start left is nobody's table.
    (tmp_path / "a/latency.new.json").write_text("{}")
    prune("a", 0.2, *latency, "macs_seconds=0.5")
    after = files_of(tmp_path / "a")
    for name in ("latency.json", "student.yaml", "config.yaml", "latest.pth"):
        assert after[name] == before[name], name
    assert "latency.new.json" not in after
    assert not (dense / "latency.json").exists()

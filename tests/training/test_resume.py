"""A run that is killed and started again ends where it would have ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_prune.pruning import controller
from espnet_prune.training.task import DenseASRTask, PruneASRTask
from espnet_prune.training.trainer import PruneTrainer, SafeTrainer

ROOT = Path(__file__).resolve().parents[2]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, gates, multipliers, step, optimizer and schedule are the same."""
    first, second = (
        torch.load(run / "checkpoint.pth", weights_only=False) for run in (one, other)
    )
    assert first["model"].keys() == second["model"].keys()
    for key, value in first["model"].items():
        torch.testing.assert_close(
            second["model"][key], value, atol=1e-6, rtol=0, msg=key
        )
    assert first["schedulers"] == second["schedulers"]
    for a, b in zip(first["optimizers"], second["optimizers"], strict=True):
        for group, other_group in zip(
            a["param_groups"], b["param_groups"], strict=True
        ):
            assert group == other_group
        for key, moments in a["state"].items():
            assert torch.allclose(moments["exp_avg"], b["state"][key]["exp_avg"])
    assert first["reporter"]["epoch"] == second["reporter"]["epoch"]


class Killed(BaseException):
    pass


def kill_in_epoch(monkeypatch, trainer, epoch: int) -> None:
    """Stop the run when that epoch is validated, as SIGKILL would: nothing is saved."""
    validate, calls = trainer.validate_one_epoch.__func__, []

    def stop(cls, *args, **kwargs):
        calls.append(1)
        if len(calls) == epoch:
            raise Killed
        return validate(cls, *args, **kwargs)

    monkeypatch.setattr(trainer, "validate_one_epoch", classmethod(stop))


def test_pruning_resumes_with_gates_multipliers_and_schedule(
    pruned, student_command, tmp_path, monkeypatch
):
    command = student_command(tmp_path)
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, PruneTrainer, 2)
        with pytest.raises(Killed):
            PruneASRTask.main(cmd=command)
    assert not (tmp_path / "2epoch.pth").exists()
    half = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["model"]
    PruneASRTask.main(cmd=command)
    assert_same_run(pruned, tmp_path)
    end = torch.load(tmp_path / "latest.pth")
    for count in ("sparsity.step", "gates.draws"):
        assert end[count] == 2 * half[count] > 0
    assert end["sparsity.lambda1"] != half["sparsity.lambda1"]


def test_finished_run_is_left_alone_but_for_what_a_kill_took(
    pruned, student_command, dense, tmp_path
):
    command = student_command(tmp_path)
    PruneASRTask.main(cmd=command)
    before = torch.load(dense / "model.pth")
    after = torch.load(tmp_path / "latest.pth")
    key = "encoder.encoders.0.feed_forward.w_1.weight"
    assert not torch.equal(before[key], after[key])  # it did train
    # A kill between checkpoint and epoch file, mended by starting it again.
    (tmp_path / "2epoch.pth").unlink()
    PruneASRTask.main(cmd=command)
    assert_same_run(pruned, tmp_path)
    again = torch.load(tmp_path / "latest.pth")
    torch.testing.assert_close(again, after, rtol=0, atol=0)


@pytest.fixture
def dense_command(dense, data_options, student_command, tmp_path_factory):
    """Options of a dense training, shorter than the recipe's."""
    config = yaml.safe_load((dense / "config.yaml").read_text())
    keys = ("token_list", "encoder", "encoder_conf", "decoder", "decoder_conf")
    keys += ("frontend_conf", "model_conf", "token_type")
    recipe = {k: config[k] for k in keys} | {
        "optim": "adam",
        "scheduler": "warmuplr",
        "scheduler_conf": {"warmup_steps": 4},
        "batch_type": "numel",
        "batch_bins": 40000,
        "num_workers": 0,
        "max_epoch": 2,
        "num_att_plot": 0,
        "use_matplotlib": False,
        "use_tensorboard": False,
        "best_model_criterion": [["valid", "acc", "max"]],
        "keep_nbest_models": 1,
    }
    path = tmp_path_factory.mktemp("dense_recipe") / "train.yaml"
    path.write_text(yaml.safe_dump(recipe))

    def make(out: Path) -> list[str]:
        options = ["--config", str(path), "--output_dir", str(out)]
        return [*options, "--resume", "true", *data_options]

    return make


def test_dense_training_resumes(dense_command, tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    DenseASRTask.main(cmd=dense_command(one))
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, SafeTrainer, 2)
        with pytest.raises(Killed):
            DenseASRTask.main(cmd=dense_command(other))
    DenseASRTask.main(cmd=dense_command(other))
    assert_same_run(one, other)
    assert (other / "valid.acc.ave.pth").exists()


def planned(command, trainer) -> dict:
    """What a run starts with: its student, optimizer and schedule."""
    seen = {}

    class Spy(trainer):
        @classmethod
        def train_one_epoch(cls, model, optimizers, schedulers, **kwargs):
            groups = {g["name"]: g["lr"] for g in optimizers[0].param_groups}
            seen.update(model=model, rates=groups, schedule=schedulers[0])
            raise Killed

    class Task(PruneASRTask):
        trainer = Spy

    with pytest.raises(Killed):
        Task.main(cmd=command)
    return seen


@pytest.mark.parametrize("accum", [1, 3])
def test_schedule_is_planned_over_the_whole_run(
    pruned, student_command, tmp_path, monkeypatch, accum
):
    """The target rises by batches; the optimizer steps once per ``accum_grad``."""
    # So short a run would have the largest rates, whatever its steps.
    monkeypatch.setattr(controller, "GATE_LR_RANGE", (0.0, float("inf")))
    command = student_command(tmp_path, accum_grad=accum, max_epoch=6)
    seen = planned(command, PruneTrainer)
    end = torch.load(pruned / "latest.pth")
    steps = int(end["sparsity.step"]) * 3  # epochs: 6 for 2
    assert seen["model"].sparsity.total_steps == steps
    assert seen["schedule"].total_steps == steps // accum
    options = seen["model"].sparsity.options
    gates, multipliers = controller.learning_rates(options, steps // accum)
    assert (seen["rates"]["gates"], seen["rates"]["multipliers"]) == (
        gates,
        multipliers,
    )


def test_fine_tuning_that_goes_on_for_longer_is_planned_anew(
    finetune_command, tmp_path
):
    command = finetune_command(tmp_path / "run")
    PruneASRTask.main(cmd=command)
    states = torch.load(tmp_path / "run/checkpoint.pth", weights_only=False)
    (done,) = states["schedulers"]
    seen = planned([*command, "--max_epoch", "4"], PruneTrainer)["schedule"]
    assert seen.steps == done["steps"] and seen.total_steps == 2 * done["steps"]
    # Half of it is done: the rate, which had fallen to its end, is held again.
    assert seen.factor() == 1.0


def start(command: list[str], log: Path, *extra: str, task: str) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = "import espnet_prune.base.quiet; "
    program += f"from espnet_prune.training.task import {task}; {task}.main()"
    module = [sys.executable, "-c", program]
    with log.open("a") as f:
        return subprocess.Popen(
            [*module, *command, *extra], stdout=f, stderr=subprocess.STDOUT, env=env
        )


@pytest.mark.slow  # a kill at any moment, not between epochs only
@pytest.mark.parametrize(
    ("stage", "delay"), [("prune", 0.3), ("finetune", 0.1), ("dense", 0.0)]
)
def test_training_survives_sigkill(request, tmp_path, stage, delay):
    fixture = "student_command" if stage == "prune" else f"{stage}_command"
    make = request.getfixturevalue(fixture)
    task = DenseASRTask if stage == "dense" else PruneASRTask
    one, other, log = tmp_path / "one", tmp_path / "other", tmp_path / "log"
    epochs = ("--max_epoch", "8")
    task.main(cmd=[*make(one), *epochs])
    command = make(other)
    process = start(command, log, *epochs, task=task.__name__)
    while not (other / "checkpoint.pth").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    last = start(command, log, *epochs, task=task.__name__)
    assert last.wait() == 0, log.read_text()
    assert_same_run(one, other)


def test_process_leaves_its_group_after_the_training(tmp_path, monkeypatch):
    # Left open to the end of the interpreter, it aborted one run in many.
    def join(_cls, _args):
        dist.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1
        )

    monkeypatch.setattr(ASRTask, "main_worker", classmethod(join))
    for task in (DenseASRTask, PruneASRTask):
        options = ["--output_dir", str(tmp_path), "--dry_run", "true"]
        task.main_worker(task.get_parser().parse_args(options))
        assert not dist.is_initialized(), task

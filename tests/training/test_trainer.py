import copy

import pytest
import torch

from espnet_prune.base import files
from espnet_prune.base.files import atomic_path
from espnet_prune.training.trainer import (
    GroupClippedAdamW,
    WarmupHoldDecay,
    as_optimizers,
    atomic_torch_save,
    parameter_groups,
    repair,
)


class Student(torch.nn.Module):
    """The parameter names of a student."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.gate = torch.nn.Module()
        self.gate.log_alpha = torch.nn.Parameter(torch.zeros(4))
        self.sparsity = torch.nn.Module()
        self.sparsity.lambda1 = torch.nn.Parameter(torch.zeros(()))
        self.sparsity.lambda2 = torch.nn.Parameter(torch.zeros(()))


def groups_of(model, **options):
    defaults = {"lr": 1.0, "weight_decay": 0.1, "max_norm": 5.0}
    return parameter_groups(model, **defaults | options)


def test_every_parameter_is_in_its_group():
    groups = {g["name"]: g for g in groups_of(Student())}
    sizes = {name: len(g["params"]) for name, g in groups.items()}
    assert sizes == {"weights": 2, "gates": 1, "multipliers": 2}
    assert [groups[n]["maximize"] for n in sizes] == [False, False, True]
    # Decay would pull gates open and let an ascending multiplier grow by itself.
    assert [groups[n]["weight_decay"] for n in sizes] == [0.1, 0.0, 0.0]


def test_groups_are_clipped_apart():
    model = Student()
    (optimizer,) = as_optimizers(groups_of(model))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    model.sparsity.lambda1.grad.fill_(1e6)
    optimizer.step()
    assert model.linear.weight.grad.unique().item() == pytest.approx(0.1)
    assert model.gate.log_alpha.grad.unique().item() == pytest.approx(0.1)
    assert model.sparsity.lambda1.grad.item() == pytest.approx(5.0, rel=1e-3)


def test_model_without_gates_has_only_weights():
    assert [g["name"] for g in groups_of(torch.nn.Linear(2, 2))] == ["weights"]


def make_schedule(total: int = 100) -> tuple[GroupClippedAdamW, WarmupHoldDecay]:
    (optimizer,) = as_optimizers(groups_of(Student()))
    for parameter in (p for g in optimizer.param_groups for p in g["params"]):
        parameter.grad = torch.ones_like(parameter)
    return optimizer, WarmupHoldDecay(optimizer, total)


def rates(optimizer) -> dict[str, float]:
    return {g["name"]: g["lr"] for g in optimizer.param_groups}


def run(optimizer, schedule, steps: int) -> list[dict[str, float]]:
    seen = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append(rates(optimizer))
    return seen


def test_learning_rate_rises_from_nothing_holds_and_falls_to_a_tenth():
    optimizer, schedule = make_schedule(2000)
    first = rates(optimizer)["weights"]
    seen = [first] + [r["weights"] for r in run(optimizer, schedule, 1999)]
    rise, hold, fall = seen[:101], seen[100:1201], seen[1200:]
    assert rise == pytest.approx([(i + 1) / 101 for i in range(101)])
    assert hold == [1.0] * 1101
    assert fall == pytest.approx([1 - 0.9 * i / 800 for i in range(800)])


def test_gates_and_multipliers_keep_their_learning_rates():
    seen = run(*make_schedule(), 100)
    assert {(r["gates"], r["multipliers"]) for r in seen} == {(1.0, 1.0)}


@pytest.mark.parametrize("total", [0, 1, 2])
def test_shortest_runs_have_a_positive_learning_rate(total):
    optimizer, schedule = make_schedule(total)
    seen = [rates(optimizer), *run(optimizer, schedule, 5)]  # some beyond their end
    assert all(0 < r["weights"] <= 1 for r in seen)


@pytest.mark.parametrize("stop", [1, 3, 40, 80])
@pytest.mark.parametrize("total", [100, 150])
def test_schedule_goes_on_after_a_resume_by_the_plan_of_now(stop, total):
    """A run that shall last longer goes on as if it had been planned so."""
    optimizer, schedule = make_schedule()
    run(optimizer, schedule, stop)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    expected = run(*make_schedule(total), total)[stop:]
    optimizer, schedule = make_schedule(total)
    optimizer.load_state_dict(saved[0])  # ESPnet's order; it replaces the groups
    schedule.load_state_dict(saved[1])
    assert run(optimizer, schedule, total - stop) == expected


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("killed")


def test_failed_save_leaves_the_old_file_and_restores_torch_save(tmp_path):
    plain, path = torch.save, tmp_path / "checkpoint.pth"
    for named in (path, str(path)):
        with pytest.raises(RuntimeError, match="killed"), atomic_torch_save():
            torch.save({"epoch": 1}, named)
            with (tmp_path / "open.pth").open("wb") as file:
                torch.save(2, file)
            torch.save({"epoch": 2, "bad": Unpicklable()}, named)
        assert torch.save is plain
    assert torch.load(path) == {"epoch": 1} and torch.load(tmp_path / "open.pth") == 2
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pth", "open.pth"}


def test_what_is_saved_again_is_the_same_to_the_byte(tmp_path, monkeypatch):
    """Whoever saves it: decodings know a model by its bytes."""
    saved = []
    for process in (1, 22):
        monkeypatch.setattr(files.os, "getpid", lambda own=process: own)
        with atomic_torch_save():
            torch.save({"epoch": 1, "x": torch.ones(3)}, tmp_path / "model.pth")
        saved.append((tmp_path / "model.pth").read_bytes())
    assert saved[0] == saved[1]


@pytest.mark.parametrize("latest", ["2epoch.pth", "nowhere.pth", None])
@pytest.mark.parametrize("lost", [True, False])
def test_repair_leaves_the_epoch_of_the_checkpoint_as_the_latest(
    tmp_path, latest, lost
):
    repair(tmp_path)  # a fresh directory
    assert not list(tmp_path.iterdir())
    weights = {"w": torch.ones(2)}
    states = {"model": weights, "reporter": {"epoch": 3}, "optimizers": []}
    torch.save(states, tmp_path / "checkpoint.pth")
    torch.save({"w": torch.zeros(2)}, tmp_path / "2epoch.pth")
    if not lost:
        torch.save({"w": torch.full((2,), 5.0)}, tmp_path / "3epoch.pth")
    if latest is not None:
        (tmp_path / "latest.pth").symlink_to(latest)
    with atomic_path(tmp_path / "checkpoint.pth") as temporary:
        temporary.write_bytes((tmp_path / "checkpoint.pth").read_bytes())
    temporary.write_bytes(b"of a killed save")
    repair(tmp_path)
    assert (tmp_path / "latest.pth").readlink().name == "3epoch.pth"
    assert torch.load(tmp_path / "latest.pth")["w"].tolist() == [1 if lost else 5] * 2
    names = {"checkpoint.pth", "2epoch.pth", "3epoch.pth", "latest.pth"}
    assert {p.name for p in tmp_path.iterdir()} == names


def stepped(scale: float, poison: bool = False) -> Student:
    """A student after one step of mixed precision's scaled gradients."""
    torch.manual_seed(0)
    model = Student()
    (optimizer,) = as_optimizers(groups_of(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    loss = model.linear(torch.ones(2, 3)).square().sum()
    loss = loss + model.gate.log_alpha.sum() + model.sparsity.lambda1
    scaler.scale(loss).backward()
    if poison:
        model.linear.weight.grad[0, 0] = torch.inf
    scaler.unscale_(optimizer)  # as ESPnet's trainer does before its own clipping
    scaler.step(optimizer)
    scaler.update()
    return model


def test_mixed_precision_takes_the_same_step_or_none_after_an_overflow():
    torch.manual_seed(0)
    before, after = Student().state_dict(), stepped(1024.0).state_dict()
    torch.testing.assert_close(after, stepped(1.0).state_dict())
    assert not torch.equal(after["linear.weight"], before["linear.weight"])
    poisoned = stepped(1024.0, poison=True).state_dict()
    torch.testing.assert_close(poisoned, before, rtol=0, atol=0)

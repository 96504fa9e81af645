"""ESPnet's trainer, made safe to kill, and given the schedule of a pruning run."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler
from espnet2.train.trainer import Trainer

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_path
from espnet_prune.families.espnet.checkpoint import read_checkpoint
from espnet_prune.pruning.controller import learning_rates


@contextmanager
def atomic_torch_save() -> Iterator[None]:
    """Make torch.save write to a temporary name first while the context is open.

    ESPnet's trainer saves in place: a run killed while it writes ``checkpoint.pth``
    could not be resumed. What is saved twice is the same to the byte: torch would write
    the temporary name into the file, and decodings know their model by its bytes.
    """
    plain = torch.save

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            return plain(obj, f, *args, **kwargs)
        with atomic_path(f) as temporary, temporary.open("wb") as file:
            plain(obj, file, *args, **kwargs)

    torch.save = save
    try:
        yield
    finally:
        torch.save = plain


def repair(output_dir: Path) -> None:
    """Bring an experiment directory in line with its checkpoint.

    The trainer writes ``checkpoint.pth``, then ``<N>epoch.pth``, then links: a kill in
    between would leave an epoch without its model.
    """
    for leftover in output_dir.glob(".*.tmp"):  # of a kill in the middle of a save
        leftover.unlink()
    checkpoint = output_dir / "checkpoint.pth"
    if not checkpoint.exists():
        return
    states = read_checkpoint(checkpoint)
    epoch = states["reporter"]["epoch"]
    model = output_dir / f"{epoch}epoch.pth"
    if not model.exists():
        logging.warning(f"{model} was lost in a kill: restored from {checkpoint}")
        torch.save(states["model"], model)
    latest = output_dir / "latest.pth"
    latest.unlink(missing_ok=True)
    latest.symlink_to(model.name)


class SafeTrainer(Trainer):
    """ESPnet's trainer; a run killed at any moment resumes from its last epoch."""

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> None:
        options, distributed = kwargs["trainer_options"], kwargs["distributed_option"]
        with atomic_torch_save():
            if options.resume and distributed.dist_rank in (None, 0):
                repair(Path(options.output_dir))
            if distributed.distributed:
                torch.distributed.barrier()
            super().run(*args, **kwargs)


class PruneTrainer(SafeTrainer):
    """The trainer of a student plans the run once the number of steps is known."""

    @classmethod
    def run(cls, *args: Any, **kwargs: Any) -> None:
        options, model = kwargs["trainer_options"], kwargs["model"]
        epoch = kwargs["train_iter_factory"].build_iter(1)
        try:
            batches = len(epoch)
        except TypeError as e:
            raise InputError(
                "--iterator_type",
                "this iterator does not know its number of batches",
                "use the sequence iterator for pruning",
            ) from e
        forwards = batches * options.max_epoch
        (optimizer,) = kwargs["optimizers"]
        if model.sparsity is not None:
            model.sparsity.total_steps = forwards
            # The gates move once per update, however many forwards make one.
            updates = max(1, forwards // options.accum_grad)
            rates = learning_rates(model.sparsity.options, updates)
            for group in optimizer.param_groups:
                if group["name"] != "weights":
                    group["lr"] = rates[group["name"] == "multipliers"]
            logging.info(
                f"{forwards} steps: learning rates of gates, multipliers {rates}"
            )
        kwargs["schedulers"] = [
            WarmupHoldDecay(optimizer, forwards // options.accum_grad)
        ]
        super().run(*args, **kwargs)


class WarmupHoldDecay(AbsBatchStepScheduler):
    """Learning rate of the weights: linear rise, hold, linear fall to a tenth.

    Gates and multipliers keep theirs, so that they can still move in the hold.

    Args:
        optimizer: with a group named ``weights``.
        total_steps: optimizer steps of the run.
    """

    RISE, HOLD, END = 0.05, 0.6, 0.1  # fractions of the run; of the learning rate

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int):
        self.optimizer = optimizer
        (self.peak,) = (group["lr"] for group in self._weights())
        self.total_steps, self.steps = total_steps, 0
        self._set()

    def _weights(self) -> list[dict[str, Any]]:
        # Looked up anew: loading an optimizer's state replaces its groups.
        return [g for g in self.optimizer.param_groups if g["name"] == "weights"]

    def factor(self) -> float:
        done = min(1.0, self.steps / max(1, self.total_steps))
        if done < self.RISE:
            return (self.steps + 1) / (self.RISE * self.total_steps + 1)
        return 1 - (1 - self.END) * max(0.0, (done - self.HOLD) / (1 - self.HOLD))

    def _set(self) -> None:
        for group in self._weights():
            group["lr"] = self.peak * self.factor()

    def step(self, epoch: int | None = None) -> None:
        self.steps += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "peak": self.peak}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.peak = state["steps"], state["peak"]
        self._set()


class GroupClippedAdamW(torch.optim.AdamW):
    """AdamW that clips the gradient norm of each parameter group apart.

    One norm over everything would let a large multiplier gradient shrink the update of
    the weights. The clipping is inside the step, after ESPnet has unscaled the
    gradients of mixed precision.
    """

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], group["max_norm"])
        return super().step(closure)


def parameter_groups(
    model: torch.nn.Module, lr: float, weight_decay: float, max_norm: float
) -> list[dict[str, Any]]:
    """Sort weights, gates and multipliers into optimizer groups.

    Only the weights decay; the multipliers ascend. The learning rates of gates and
    multipliers are set when the run is planned.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.endswith("log_alpha"):
            kind = "gates"
        elif name in ("sparsity.lambda1", "sparsity.lambda2"):
            kind = "multipliers"
        else:
            kind = "weights"
        groups.setdefault(kind, []).append(parameter)
    return [
        {
            "name": kind,
            "params": parameters,
            "lr": lr,
            "weight_decay": weight_decay if kind == "weights" else 0.0,
            "maximize": kind == "multipliers",
            "max_norm": max_norm,
        }
        for kind, parameters in groups.items()
    ]


def as_optimizers(groups: Sequence[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """Make one optimizer for all groups.

    With two, ESPnet's trainer would unscale the second one's mixed-precision gradients
    twice.
    """
    # Fused: hundreds of small tensors in one call, a twentieth of a step on two cores.
    return [GroupClippedAdamW(list(groups), fused=True)]

"""The base of all families' students: gates outside the model, and a teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor, nn
from torch.func import functional_call

from espnet_prune.config.options import make_options
from espnet_prune.config.sections import SparsityOptions
from espnet_prune.pruning.budget import Budget
from espnet_prune.pruning.controller import SparsityController
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.iterative import MagnitudeController
from espnet_prune.training.fake_int8 import FakeInt8
from espnet_prune.training.sizes import Sizes


class GatedStudent(nn.Module):
    """A model for ESPnet's trainer whose tensors are replaced by gated ones.

    Attributes:
        gates, sparsity: None where the student has no gates.
        sizes: None where it learns for one size.
        teacher: frozen and in evaluation mode for good. It stays outside the module
            registry: not trained, not flipped to training mode, not saved, not wrapped
            by DDP, not drawn by the attention plots.
        fake_int8: rounds what int8 will round; None: nothing is rounded.
    """

    gates: Gates | None
    sizes: Sizes | None
    sparsity: nn.Module | None
    teacher: nn.Module | None
    fake_int8: FakeInt8 | None = None

    def losses(
        self, *batch: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute loss, stats and weight of a batch, with the tensors as they are."""
        raise NotImplementedError

    def control(self, sparsity: dict[str, Any], budget: Budget) -> None:
        """Give the gates what steers them.

        Args:
            sparsity: keyword arguments of :class:`SparsityOptions`.
            budget: what the student may cost.
        """
        options = make_options(SparsityOptions, "sparsity", sparsity)
        if options.by != "lagrangian":
            self.gates.requires_grad_(False)
            self.sparsity = MagnitudeController(options, budget)
        else:
            self.sparsity = SparsityController(options, budget)

    def set_teacher(self, teacher: nn.Module | None) -> None:
        """Give the student its teacher."""
        if teacher is not None:
            teacher.requires_grad_(False).eval()
        self.__dict__["teacher"] = teacher

    def _apply(self, fn, *args, **kwargs):
        # .to() and .cuda() must reach the teacher, too.
        if self.teacher is not None:
            self.teacher._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers, by name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(
        self, *batch: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute the losses of a batch under the gates, and their Lagrangian.

        Of several sizes they are the means over those of the step.

        Returns:
            loss, stats to log, weight (batch size).
        """
        if self.sizes is not None:
            return self._in_sizes(batch, kwargs)
        replaced, lagrangian = {}, None
        if self.gates is not None:
            tensors = self.tensors()
            lagrangian = self.sparsity(self.gates, tensors)  # it may set the masks
            replaced = self.gates.layout.gated(tensors, self.gates())
            if self.sparsity.feedback:  # what is closed sees the gradient, too
                replaced = {
                    name: tensors[name] + (value - tensors[name]).detach()
                    for name, value in replaced.items()
                }
        loss, stats, weight = self._under(replaced, batch, kwargs)
        if lagrangian is not None:
            loss = loss + lagrangian[0]
            stats.update(lagrangian[1])
        stats["loss"] = loss.detach()
        return force_gatherable((loss, stats, weight), loss.device)

    def _in_sizes(
        self, batch: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Average the losses of a batch, and what is told of them, over sizes."""
        tensors, losses, told = self.tensors(), [], {}
        self.sizes.begin(tensors)
        with self.same_for_all():
            for number in self.sizes.drawn():
                replaced = self.sizes.replaced(tensors, number)
                loss, stats, weight = self._under(replaced, batch, kwargs)
                losses.append(loss)
                for name, value in stats.items():
                    told.setdefault(name, []).append(value)
        loss = torch.stack(losses).mean()
        means = {
            name: sum(values) / len(values)
            for name, values in told.items()
            if None not in values
        }
        means["loss"] = loss.detach()
        return force_gatherable((loss, means, weight), loss.device)

    def _under(
        self,
        replaced: dict[str, Tensor],
        batch: tuple[Tensor, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute the losses of a batch with some tensors replaced."""
        if self.fake_int8 is not None:
            replaced |= self.fake_int8.rounded(self.tensors() | replaced)
        by_name = {f"student.{name}": tensor for name, tensor in replaced.items()}
        return functional_call(_Losses(self), by_name, batch, kwargs)

    @contextmanager
    def same_for_all(self) -> Iterator[None]:
        """Let all forward passes see one augmentation, and ask the teacher once.

        Families whose kinds can have ``sizes`` do so.
        """
        raise NotImplementedError


class _Losses(nn.Module):
    """The losses of a student as a module that ``functional_call`` can call."""

    def __init__(self, student: GatedStudent):
        super().__init__()
        self.student = student

    def forward(self, *batch: Tensor, **kwargs: Any) -> tuple[Tensor, dict, Tensor]:
        return self.student.losses(*batch, **kwargs)

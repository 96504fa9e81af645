"""One set of weights for several sizes of a model: their masks, and what each keeps.

Slimmable networks (Yu et al. 2019, arXiv 1812.08928; sandwich rule: Yu and Huang 2019,
arXiv 1903.05134). Which units a size keeps was learned, by a pruning of each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from espnet_prune.config.rungs import WHOLE
from espnet_prune.pruning.layout import Layout

STATISTICS = ("running_mean", "running_var")  # of a batch norm


class Sizes(nn.Module):
    """The sizes that a model is trained for at once, the largest first.

    A batch norm has statistics of its own in each size; all other tensors are shared.

    Args:
        layout: of the gated model.
        tensors: parameters and buffers of the model, by name.
        kept: size -> structure -> (unit,) final values, settled.

    Attributes:
        names: of the sizes, :data:`WHOLE` first.
        values: (size, unit).
    """

    def __init__(
        self,
        layout: Layout,
        tensors: Mapping[str, Tensor],
        kept: Mapping[str, Mapping[str, Tensor]],
    ):
        super().__init__()
        self.layout = layout
        self.names = (WHOLE, *sorted(kept, key=float))
        rows = [layout.whole()]
        for parts in map(kept.get, self.names[1:]):
            rows.append(torch.cat([parts[s.name] for s in layout.structures]))
        self.register_buffer("values", torch.stack([row.float() for row in rows]))
        # No bool: ESPnet's average of several epochs would divide it.
        self.register_buffer("begun", torch.zeros((), dtype=torch.long))
        self.shared: dict[str, str] = {}  # tensor of the model -> buffer here
        for name, tensor in tensors.items():
            if name.endswith(STATISTICS):
                self.shared[name] = name.replace(".", "/")
                rows = [tensor.detach().clone() for _ in self.names]
                self.register_buffer(self.shared[name], torch.stack(rows))

    @torch.no_grad()
    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin with the model's own statistics, which it has once it is loaded."""
        if not self.begun:
            for name, own in self.shared.items():
                getattr(self, own).copy_(tensors[name].expand_as(getattr(self, own)))
            self.begun.fill_(1)

    def drawn(self) -> list[int]:
        """Choose the sizes of a step: the largest, the smallest, and one in between.

        Out of training all are taken, for they are compared by what all give.
        """
        inner = range(1, len(self.names) - 1)
        if self.training and len(inner) > 1:
            inner = [inner[int(torch.randint(len(inner), ()))]]
        return [0, *inner, len(self.names) - 1]

    def statistics(self, number: int) -> dict[str, Tensor]:
        """Give a size's statistics by the model's names; what changes them, stays."""
        return {name: getattr(self, own)[number] for name, own in self.shared.items()}

    def replaced(self, tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """Make the tensors of a size that ``functional_call`` replaces.

        Args:
            tensors: parameters and buffers of the model, by name.
            number: of the size.
        """
        tensors = {**tensors, **self.statistics(number)}
        gated = self.layout.gated(tensors, self.values[number])
        return self.statistics(number) | gated

"""A model that is ready for gates, whatever its family."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from espnet_prune.base.errors import InputError
from espnet_prune.families.parts import Description
from espnet_prune.pruning.cost import Terms, count_terms
from espnet_prune.pruning.layout import Layout


def check_finite(state: Mapping[str, Tensor], where: object) -> None:
    """Refuse weights of a training that diverged.

    Args:
        state: the weights, by name.
        where: the file that they are from.

    Raises:
        InputError: a number is not finite.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            what = f"holds numbers that are not finite, in {name}"
            raise InputError(where, what, "give weights of before it diverged")


@dataclass(frozen=True)
class Described:
    """A model that has been prepared for gates, with its layout.

    Args:
        about: what can go of it.
        layout: of its structures.
        parameters: names of the parameters that count.
    """

    about: Description
    layout: Layout
    parameters: tuple[str, ...]

    def counts(self, clocks: Mapping[str, float]) -> dict[str, Terms]:
        """Count what the model costs in parameters and in MACs.

        Args:
            clocks: how often tensors are applied, by clock.
        """
        return count_terms(self.layout, self.parameters, self.about.work(clocks))

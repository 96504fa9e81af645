"""The ways to a smaller model that the recipe compares, each with its properties.

Stage 12 takes them as ``--method``; everything after it is the same for all, so they
are compared with the same budget, the same data and the same fine-tuning. Rungs,
checks, plans and reports read this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        name: as ``--method`` takes it.
        what: in a few words.
        gated: whether the dense model gets gates, which export cuts along.
        trained: whether stage 12 trains; the choice is made at once where not.
        taught: whether it follows the dense model, in stage 12 and in fine-tuning.
        laddered: whether the next target goes on from the gates of the last.
        learned: whether the gates are; weights as they are, or gone, where not.
    """

    name: str
    what: str
    gated: bool = True
    trained: bool = True
    taught: bool = True
    laddered: bool = False
    learned: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("l0", "L0 gates with distillation", laddered=True, learned=True),
        Method(
            "l0_alone",
            "the same without distillation, in pruning and fine-tuning",
            taught=False,
            laddered=True,
            learned=True,
        ),
        Method(
            "iterative",
            "the units of the smallest weights go bit by bit while it trains",
            laddered=True,
        ),
        Method(
            "magnitude",
            "in every layer the units of the smallest weights go, at once",
            trained=False,
        ),
        Method("random", "units at random go", trained=False),
        Method(
            "blocks",
            "whole blocks go, evenly spaced (LayerDrop, arXiv 1909.11556)",
            trained=False,
        ),
        Method(
            "small",
            "a small dense Conformer of the same cost, trained from scratch",
            gated=False,
            taught=False,
        ),
        Method(
            "small_distilled",
            "the same, distilled from the dense model while it is trained",
            gated=False,
        ),
    )
}

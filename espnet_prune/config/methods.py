"""The ways to a smaller model that the recipe compares, each with its properties.

Stage 12 takes them as ``--method``; everything after it is the same for all, so they
are compared with the same budget, the same data and the same fine-tuning. Rungs,
checks, plans and reports read this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to a smaller model: a row of the table.

    Args:
        name: as ``--method`` takes it.
        gated: whether the dense model gets gates, which export cuts along.
        trained: whether stage 12 trains; the choice is made at once where not.
        taught: whether it follows the dense model, in stage 12 and in fine-tuning.
        laddered: whether the next target goes on from the gates of the last.
        learned: whether the gates are; weights as they are, or gone, where not.
        steering: what closes gates in a training, as ``sparsity`` has it.
        prunes_as: method whose pruning it takes, where it has none of its own.
        heard: whether it chooses by what the dense model's layers hear, of audio alone.
    """

    name: str
    gated: bool = True
    trained: bool = True
    taught: bool = True
    laddered: bool = False
    learned: bool = False
    steering: str = "lagrangian"
    prunes_as: str = ""
    heard: bool = False


# What the others are compared with; names of directories leave it out.
REFERENCE = "l0"
SLIMMABLE = "slimmable"
METHODS = {
    method.name: method
    for method in (
        # L0 gates with distillation.
        Method(REFERENCE, laddered=True, learned=True),
        # One set of weights, fine-tuned for all targets and the whole model at once.
        Method(SLIMMABLE, laddered=True, learned=True, prunes_as=REFERENCE),
        # The same without distillation, in pruning and fine-tuning.
        Method("l0_alone", taught=False, laddered=True, learned=True),
        # The units of the smallest weights go bit by bit while it trains.
        Method("iterative", laddered=True, steering="magnitude"),
        # The same, but what is closed goes on learning, and may open again.
        Method("feedback", laddered=True, steering="feedback"),
        # In every layer the units of the smallest weights go, at once.
        Method("magnitude", trained=False),
        # Units at random go.
        Method("random", trained=False),
        # Whole blocks go, evenly spaced (LayerDrop, arXiv 1909.11556).
        Method("blocks", trained=False),
        # A small dense model of the same cost, trained from scratch.
        Method("small", gated=False, taught=False),
        # The same, distilled from the dense model while it is trained.
        Method("small_distilled", gated=False),
        # At once, by what the dense model's layers hear: units go that others make up
        # for, dimensions inside heads, and ranks of matrices.
        Method("low_rank", trained=False, heard=True),
    )
}

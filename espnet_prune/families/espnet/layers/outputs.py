"""Output channels that can go, of a layer whose output is merged with another's.

What takes such a channel on goes with it: its column there, say. So its price is that
of both ends. The weights that make the channels of what is inside the layer are a
matter of two numbers: like the filters of the subsampling they are counted as products.
"""

from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import Cost, Counts, Number, Prices


def counts(weights: Number, channels: Number, group: str) -> Counts:
    """What there is of it, by name.

    Args:
        weights: of the product that makes the channels.
        channels: of the output.
        group: under which the layer is counted.
    """
    return {f"{group}.channel": channels, f"{group}.weight": weights}


def prices(merging: Cost, frames: int, group: str) -> Prices:
    """Cost of each; ``merging``: that of one channel where it goes on."""
    return {
        f"{group}.channel": Cost(1, 0) + merging,  # the 1 is its bias
        f"{group}.weight": Cost(1, frames),
    }


def kept_channels(layer: nn.Module) -> Tensor:
    """Indices of the channels that the masks leave it; none where all of it is gone."""
    kept = layer.out_gate.mask.nonzero().squeeze(1)
    return kept if layer.kept() else kept[:0]

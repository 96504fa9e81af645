"""Convolutional subsampling by 4 whose channels can be pruned.

In a LibriSpeech Conformer 37 % of the encoder's MACs are here.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import Cost, Counts, Number, Prices
from espnet_prune.pruning.gates import Gate, GateOptions


def halved(length: int) -> int:
    """Length after a convolution of width 3 and stride 2, without padding."""
    return (length - 1) // 2


def subsampled(mask: Tensor) -> Tensor:
    """Mask (..., frame) of what two such convolutions leave, (..., time)."""
    return mask[..., :-2:2][..., :-2:2]


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2, then a linear layer.

    Args:
        features: input features per frame (mel bins).
        size: model dimension (channels out).
        channels: channels of the first and the second convolution.
        pos_enc: positional encoding, (batch, time, channel) -> (x, pos_emb).
        gates: None for the dense and the compact life.
    """

    READS, WRITES = (), ("out.0.weight", "out.0.bias")
    MIN_FRAMES = 7  # fewer leave no frame after the two convolutions

    def __init__(
        self,
        features: int,
        size: int,
        channels: tuple[int, int],
        pos_enc: nn.Module,
        gates: GateOptions | None = None,
    ):
        super().__init__()
        first, second = channels
        self.features = features
        self.conv = nn.Sequential(
            nn.Conv2d(1, first, 3, 2), nn.ReLU(), nn.Conv2d(first, second, 3, 2)
        )
        bands = halved(halved(features))
        self.out = nn.Sequential(nn.Linear(second * bands, size), pos_enc)
        self.gate1 = gates.build(first) if gates else None
        self.gate2 = gates.build(second) if gates else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frame, feature) -> (batch, time, channel), and ``pos_emb``."""
        x = F.relu(self.conv[0](x.unsqueeze(1)))
        if self.gate1 is None:
            x = F.relu(self.conv[2](x)).transpose(1, 2).flatten(2)
            return self.out(x)
        second, linear = self._gated_weights()
        x = F.relu(F.conv2d(x, second, self.conv[2].bias, stride=2))
        x = x.transpose(1, 2).flatten(2)  # (batch, time, channel * band)
        return self.out[1](F.linear(x, linear, self.out[0].bias))

    def _gated_weights(self) -> tuple[Tensor, Tensor]:
        # A channel is gated where it is consumed: by the second convolution and by
        # the columns that the linear layer has for it, one per frequency band.
        second, linear = self.conv[2].weight, self.out[0].weight
        bands = linear.shape[1] // second.shape[0]
        return (
            second * self.gate1()[:, None, None],
            linear * self.gate2().repeat_interleave(bands),
        )

    @staticmethod
    def counts(channels: tuple[Number, Number]) -> Counts:
        """What there is of it, by name."""
        first, second = channels
        return {
            "subsampling.module": 1,
            "subsampling.first": first,
            "subsampling.second": second,
            "subsampling.filter": first * second,  # of the second convolution
        }

    @staticmethod
    def prices(features: int, size: int, frames: int) -> Prices:
        """Cost of each; ``frames`` are *feature* frames of one utterance."""
        f1, t1 = halved(features), halved(frames)
        f2, t2 = halved(f1), halved(t1)
        return {
            "subsampling.module": Cost(size, 0),
            "subsampling.first": Cost(10, 9 * t1 * f1),
            "subsampling.second": Cost(size * f2 + 1, t2 * f2 * size),
            "subsampling.filter": Cost(9, 9 * t2 * f2),
        }

    def gated_counts(self, openness: Callable[[Gate], Tensor]) -> Counts:
        return self.counts((openness(self.gate1).sum(), openness(self.gate2).sum()))

    def kept(self) -> tuple[int, int]:
        """Channels left by the masks in the first and the second convolution."""
        return int((self.gate1.mask != 0).sum()), int((self.gate2.mask != 0).sum())

    def sliced_state(self) -> dict[str, Tensor]:
        """State dict of the compact layer, gate values folded into the consumers."""
        keep1 = self.gate1.mask.nonzero().squeeze(1)
        keep2 = self.gate2.mask.nonzero().squeeze(1)
        second, linear = self._gated_weights()
        columns = linear.unflatten(1, (len(self.gate2), -1))[:, keep2].flatten(1)
        return {
            "conv.0.weight": self.conv[0].weight[keep1],
            "conv.0.bias": self.conv[0].bias[keep1],
            "conv.2.weight": second[keep2][:, keep1],
            "conv.2.bias": self.conv[2].bias[keep2],
            "out.0.weight": columns,
            "out.0.bias": self.out[0].bias,
        }

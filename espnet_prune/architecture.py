"""The sizes of an encoder as plain data, and what an encoder of that size costs.

An architecture round-trips to the YAML of ``encoder_conf``, so a compact model is
rebuilt by one constructor call.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from espnet_prune.layers.attention import RelPositionAttention
from espnet_prune.layers.convolution import Convolution
from espnet_prune.layers.cost import Cost
from espnet_prune.layers.feed_forward import FeedForward
from espnet_prune.layers.subsampling import Subsampling, halved


@dataclass(frozen=True)
class Fixed:
    """What pruning leaves alone.

    Args:
        features: input features per frame (mel bins).
        size: model dimension.
        head_dim: dimensions per head of the dense model (sets the softmax scale).
        kernel_size: width of the depthwise convolution.
    """

    features: int
    size: int
    head_dim: int
    kernel_size: int


@dataclass(frozen=True)
class Block:
    """Units of one Conformer block; a submodule of 0 units does not exist."""

    ffn1: int
    heads: int
    qk_dim: int
    v_dim: int
    conv: int
    ffn2: int

    def cost(self, fixed: Fixed, frames: int) -> Cost:
        """Cost of what can go; ``frames`` are encoder frames of one utterance."""
        d = fixed.size
        ffn1, heads, conv, ffn2 = self.ffn1, self.heads, self.conv, self.ffn2
        return (
            FeedForward.cost(d, ffn1, int(ffn1 > 0), frames)
            + RelPositionAttention.cost(
                d, heads, self.qk_dim, self.v_dim, int(heads > 0), frames
            )
            + Convolution.cost(d, conv, fixed.kernel_size, int(conv > 0), frames)
            + FeedForward.cost(d, ffn2, int(ffn2 > 0), frames)
        )


@dataclass(frozen=True)
class Architecture:
    """Sizes of a whole encoder.

    Args:
        subsampling: channels of the two subsampling convolutions.
        blocks: the Conformer blocks, first to last.
    """

    subsampling: tuple[int, int]
    blocks: tuple[Block, ...]

    @classmethod
    def dense(
        cls, size: int, heads: int, units: int, num_blocks: int
    ) -> "Architecture":
        """Sizes of the stock ESPnet encoder."""
        dim = size // heads
        block = Block(units, heads, dim, dim, size, units)
        return cls((size, size), (block,) * num_blocks)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Architecture":
        """Read what :meth:`to_dict` wrote (also after a YAML round trip).

        Raises:
            ValueError: a field is missing, unknown, or no non-negative integer.
        """
        try:
            first, second = data["subsampling"]
            blocks = tuple(Block(**block) for block in data["blocks"])
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f"encoder_conf.architecture: {e}; expected `subsampling: [c1, c2]` and "
                f"`blocks:` with {[f.name for f in fields(Block)]} each"
            ) from e
        counts = [first, second, *(n for b in blocks for n in asdict(b).values())]
        if any(not isinstance(n, int) or n < 0 for n in counts) or not (
            first and second
        ):
            raise ValueError(
                "encoder_conf.architecture: sizes must be integers >= 0, and the "
                "subsampling must keep a channel in each convolution"
            )
        return cls((first, second), blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for YAML and JSON."""
        return {
            "subsampling": list(self.subsampling),
            "blocks": [asdict(block) for block in self.blocks],
        }

    def cost(self, fixed: Fixed, frames: int) -> dict[str, Cost]:
        """Parameters, and MACs of one utterance of ``frames`` feature frames.

        Returns:
            ``subsampling``, ``blocks`` (with the norms) and ``encoder`` (their sum).
        """
        front = Subsampling.cost(fixed.features, fixed.size, self.subsampling, frames)
        time = halved(halved(frames))
        blocks = sum(b.cost(fixed, time) for b in self.blocks)
        blocks += norms_cost(fixed, len(self.blocks))
        return {"subsampling": front, "blocks": blocks, "encoder": front + blocks}


def norms_cost(fixed: Fixed, num_blocks: int) -> Cost:
    """The final norm of every block and of the encoder: nothing removes them."""
    return Cost(params=2 * fixed.size * (num_blocks + 1), macs=0)

"""The sizes of an encoder as plain data, and what an encoder of that size costs.

An architecture round-trips to the YAML of ``encoder_conf``, so a compact model is
rebuilt by one constructor call.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from espnet_prune.layers.attention import GROUP, RelPositionAttention
from espnet_prune.layers.convolution import Convolution
from espnet_prune.layers.cost import Cost, Counts, Prices, add, cost, group_of
from espnet_prune.layers.feed_forward import FeedForward
from espnet_prune.layers.plain_attention import PlainAttention
from espnet_prune.layers.subsampling import Subsampling, halved

KINDS = ("conformer", "transformer")


@dataclass(frozen=True)
class Fixed:
    """What pruning leaves alone.

    Args:
        features: input features per frame (mel bins).
        size: model dimension.
        head_dim: dimensions per head of the dense model (sets the softmax scale).
        kernel_size: width of the depthwise convolution; 0 where there is none.
    """

    features: int
    size: int
    head_dim: int
    kernel_size: int = 0


@dataclass(frozen=True)
class Block:
    """Units of one block; a submodule of 0 units does not exist.

    A Transformer's block has no ``ffn1`` and no ``conv``.
    """

    ffn1: int
    heads: int
    qk_dim: int
    v_dim: int
    conv: int
    ffn2: int

    def counts(self) -> Counts:
        """What there is of everything that can go."""
        return add(
            [
                FeedForward.counts(self.ffn1, int(self.ffn1 > 0)),
                RelPositionAttention.counts(self.heads, self.qk_dim, self.v_dim),
                Convolution.counts(self.conv, int(self.conv > 0)),
                FeedForward.counts(self.ffn2, int(self.ffn2 > 0)),
            ]
        )


@dataclass(frozen=True)
class Architecture:
    """Sizes of a whole encoder.

    Args:
        subsampling: channels of the two subsampling convolutions.
        blocks: the blocks, first to last.
        kind: of :data:`KINDS`.
    """

    subsampling: tuple[int, int]
    blocks: tuple[Block, ...]
    kind: str = "conformer"

    @classmethod
    def dense(
        cls,
        size: int,
        heads: int,
        units: int,
        num_blocks: int,
        kind: str = "conformer",
    ) -> "Architecture":
        """Sizes of the stock ESPnet encoder."""
        dim = size // heads
        block = Block(units, heads, dim, dim, size, units)
        if kind == "transformer":
            block = Block(0, heads, dim, dim, 0, units)
        return cls((size, size), (block,) * num_blocks, kind)

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
            first and second and all(b.qk_dim and b.v_dim for b in blocks if b.heads)
        ):
            raise ValueError(
                "encoder_conf.architecture: sizes must be integers >= 0, each "
                "convolution of the subsampling must keep a channel, and heads need "
                "qk_dim and v_dim"
            )
        kind = data.get("kind", "conformer")
        if kind not in KINDS:
            raise ValueError(f"encoder_conf.architecture: kind must be one of {KINDS}")
        return cls((first, second), blocks, kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for YAML and JSON."""
        kind = {} if self.kind == "conformer" else {"kind": self.kind}
        return kind | {
            "subsampling": list(self.subsampling),
            "blocks": [asdict(block) for block in self.blocks],
        }

    def counts(self) -> Counts:
        """What there is, by name: everything that has a price in :func:`prices`."""
        return add(
            [
                Subsampling.counts(self.subsampling),
                *(block.counts() for block in self.blocks),
                self.norm_counts(),
            ]
        )

    def norm_counts(self) -> Counts:
        """The last norm of the encoder, and of every Conformer block: they stay."""
        own = len(self.blocks) if self.kind == "conformer" else 0
        return {"norm.module": own + 1}

    def cost(self, fixed: Fixed, frames: int) -> dict[str, Cost]:
        """Parameters, and MACs of one utterance of ``frames`` feature frames.

        Returns:
            ``subsampling``, ``blocks`` (with the norms) and ``encoder`` (their sum).
        """
        counts = self.counts()
        parts: dict[str, Counts] = {"subsampling": {}, "blocks": {}}
        for name, number in counts.items():
            front = group_of(name) == "subsampling"
            parts["subsampling" if front else "blocks"][name] = number
        table = prices(fixed, frames, self.kind)
        return {n: cost(c, table) for n, c in (parts | {"encoder": counts}).items()}


def prices(fixed: Fixed, frames: int, kind: str = "conformer") -> Prices:
    """What each thing in an encoder costs; ``frames`` are feature frames."""
    size, time = fixed.size, halved(halved(frames))
    table = {
        **Subsampling.prices(fixed.features, size, frames),
        **FeedForward.prices(size, time),
        **Convolution.prices(size, fixed.kernel_size, time),
        "norm.module": Cost(2 * size, 0),
    }
    if kind == "transformer":
        return table | PlainAttention.prices(size, time, time, GROUP)
    return table | RelPositionAttention.prices(size, time)

"""The sizes of an encoder as plain data, and what an encoder of that size costs.

An architecture round-trips to the YAML of ``encoder_conf``, so a compact model is
rebuilt by one constructor call.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from espnet_prune.families.espnet.layers.attention import GROUP, RelPositionAttention
from espnet_prune.families.espnet.layers.cgmlp import ConvolutionalGatingMLP
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.cost import (
    Cost,
    Counts,
    Prices,
    add,
    cost,
    group_of,
)
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.plain_attention import PlainAttention
from espnet_prune.families.espnet.layers.subsampling import Subsampling, halved


@dataclass(frozen=True)
class Fixed:
    """What pruning leaves alone.

    Args:
        features: input features per frame (mel bins).
        size: model dimension of the dense model, and of the positions.
        head_dim: dimensions per head of the dense model (sets the softmax scale).
        kernel_size: width of the depthwise convolution; 0 where there is none.
        merge_kernel: that of an E-Branchformer's convolution of both branches.
    """

    features: int
    size: int
    head_dim: int
    kernel_size: int = 0
    merge_kernel: int = 0


@dataclass(frozen=True)
class Block:
    """Units of a Conformer's block; a submodule of 0 units does not exist.

    A Transformer's has no ``ffn1`` and no ``conv``.
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

    def is_whole(self) -> bool:
        """Whether what exists has all its sizes."""
        return not self.heads or bool(self.qk_dim and self.v_dim)


@dataclass(frozen=True)
class BranchBlock:
    """Units of an E-Branchformer's block; ``attn_out`` and ``cgmlp_out``: channels that
    a branch gives to what merges them."""

    ffn1: int
    heads: int
    qk_dim: int
    v_dim: int
    attn_out: int
    cgmlp: int
    cgmlp_out: int
    ffn2: int

    def counts(self) -> Counts:
        """What there is of everything that can go."""
        return add(
            [
                FeedForward.counts(self.ffn1, int(self.ffn1 > 0)),
                RelPositionAttention.counts(
                    self.heads, self.qk_dim, self.v_dim, self.attn_out
                ),
                ConvolutionalGatingMLP.counts(self.cgmlp, self.cgmlp_out),
                FeedForward.counts(self.ffn2, int(self.ffn2 > 0)),
            ]
        )

    def is_whole(self) -> bool:
        """Whether what exists has all its sizes, and what does not has none."""
        heads = not self.heads or bool(self.qk_dim and self.v_dim)
        outputs = (self.attn_out > 0, self.cgmlp_out > 0)
        return heads and outputs == (self.heads > 0, self.cgmlp > 0)


BLOCKS = {"conformer": Block, "transformer": Block, "e_branchformer": BranchBlock}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a whole encoder.

    Args:
        subsampling: channels of the two subsampling convolutions.
        blocks: the blocks, first to last.
        kind: of :data:`BLOCKS`.
        dims: which channels between the layers are left of the dense model's, rising;
            None for all.
    """

    subsampling: tuple[int, int]
    blocks: tuple[Block, ...] | tuple[BranchBlock, ...]
    kind: str = "conformer"
    dims: tuple[int, ...] | None = None

    @property
    def size(self) -> int | None:
        """Model dimension; None for that of the dense model."""
        return None if self.dims is None else len(self.dims)

    @classmethod
    def dense(
        cls,
        size: int,
        heads: int,
        units: int,
        num_blocks: int,
        kind: str = "conformer",
    ) -> "Architecture":
        """Sizes of ESPnet's Conformer or Transformer."""
        dim = size // heads
        block = {
            "conformer": Block(units, heads, dim, dim, size, units),
            "transformer": Block(0, heads, dim, dim, 0, units),
        }[kind]
        return cls((size, size), (block,) * num_blocks, kind)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Architecture":
        """Read what :meth:`to_dict` wrote (also after a YAML round trip).

        Raises:
            ValueError: a field is missing, unknown, or no non-negative integer.
        """
        kind = data.get("kind", "conformer")
        if kind not in BLOCKS:
            raise ValueError(
                f"encoder_conf.architecture: kind must be one of {tuple(BLOCKS)}"
            )
        sizes = BLOCKS[kind]
        try:
            first, second = data["subsampling"]
            blocks = tuple(sizes(**block) for block in data["blocks"])
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f"encoder_conf.architecture: {e}; expected `subsampling: [c1, c2]` and "
                f"`blocks:` with {[f.name for f in fields(sizes)]} each"
            ) from e
        counts = [first, second, *(n for b in blocks for n in asdict(b).values())]
        if any(not isinstance(n, int) or n < 0 for n in counts) or not (
            first and second and all(block.is_whole() for block in blocks)
        ):
            raise ValueError(
                "encoder_conf.architecture: sizes must be integers >= 0, each "
                "convolution of the subsampling must keep a channel, heads need qk_dim "
                "and v_dim, and a branch needs its channels out"
            )
        return cls((first, second), blocks, kind, read_dims(data.get("dims"), kind))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for YAML and JSON."""
        kind = {} if self.kind == "conformer" else {"kind": self.kind}
        dims = {} if self.dims is None else {"dims": list(self.dims)}
        sizes = {
            "subsampling": list(self.subsampling),
            "blocks": [asdict(block) for block in self.blocks],
        }
        return kind | dims | sizes

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
        """What stays: the last norm of the encoder, and that of every block that has
        one; in an E-Branchformer also the bias of what merges the branches."""
        own = len(self.blocks) if self.kind != "transformer" else 0
        found: Counts = {"norm.module": own + 1}
        if self.kind == "e_branchformer":
            found["norm.merge"] = own
        return found

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
        table = prices(fixed, frames, self.kind, self.size)
        return {n: cost(c, table) for n, c in (parts | {"encoder": counts}).items()}


def read_dims(dims: Any, kind: str) -> tuple[int, ...] | None:
    """The ``dims`` of an :class:`Architecture`, from plain data.

    Raises:
        ValueError: they are no rising indices, or not of a Conformer.
    """
    if dims is None:
        return None
    indices = isinstance(dims, list) and all(type(n) is int for n in dims)
    if not indices or not dims or dims[0] < 0 or dims != sorted(set(dims)):
        raise ValueError(
            "encoder_conf.architecture: dims must be a list of rising indices of "
            f"channels, not {dims!r}"
        )
    if kind != "conformer":
        raise ValueError(
            "encoder_conf.architecture: dims are for a conformer only, not for "
            f"{kind!r}"
        )
    return tuple(dims)


def prices(
    fixed: Fixed, frames: int, kind: str = "conformer", size: int | None = None
) -> Prices:
    """What each thing in an encoder costs.

    Args:
        fixed: what pruning leaves alone.
        frames: feature frames.
        kind: of :data:`BLOCKS`.
        size: model dimension; None for that of the dense model.
    """
    size, time = fixed.size if size is None else size, halved(halved(frames))
    table = {
        **Subsampling.prices(fixed.features, size, frames),
        **FeedForward.prices(size, time),
        "norm.module": Cost(2 * size, 0),
    }
    if kind == "e_branchformer":
        macs = time * (size + fixed.merge_kernel)
        merging = Cost(size + fixed.merge_kernel + 1, macs)
        return table | {
            **RelPositionAttention.prices(size, fixed.size, time, merging),
            **ConvolutionalGatingMLP.prices(size, fixed.kernel_size, time, merging),
            "norm.merge": Cost(size, 0),
        }
    table |= Convolution.prices(size, fixed.kernel_size, time)
    if kind == "transformer":
        return table | PlainAttention.prices(size, time, time, GROUP)
    return table | RelPositionAttention.prices(size, fixed.size, time)

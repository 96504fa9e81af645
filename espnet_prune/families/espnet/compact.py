"""Cut stock modules to sizes, and give the sizes of a gated model as plain data.

The sizes stand in the config as ``architecture``: channels of the subsampling, and for
each block how many units are left of what, or null where the block is gone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from espnet_prune.config.sections import MODEL_DIM
from espnet_prune.families.espnet.attention import SizedAttention
from espnet_prune.families.espnet.names import linear_of
from espnet_prune.families.parts import Description
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.low_rank import LowRank
from espnet_prune.pruning.moments import is_linear
from espnet_prune.pruning.slicing import first_units, kept_sizes, sliced, widths

# Of a self-supervised frontend: its group, and the first part of its names and keys.
FRONTEND = "frontend"


class Absent(nn.Module):
    """The module stands for a submodule that is gone: it adds nothing.

    Args:
        channels: of its output, if that is put beside another's; None if it is added.
    """

    def __init__(self, channels: int | None = None):
        super().__init__()
        self.channels = channels

    def forward(self, x: Any, *_: Any, **__: Any) -> Tensor:
        """Return zeros: a scalar, or (batch, time, 0)."""
        x = x[0] if isinstance(x, tuple) else x
        if self.channels is None:
            return x.new_zeros(())
        return x.new_zeros(*x.shape[:-1], self.channels)


class Skip(nn.Module):
    """The module stands for a block that is gone: it gives on what it gets."""

    def forward(
        self, x: Any, mask: Tensor | None, *_: Any, **__: Any
    ) -> tuple[Any, Any]:
        """Give (x, mask) on."""
        return x, mask


class Constant(nn.Module):
    """The bias that is left of a linear layer without inputs.

    It is no ``nn.Linear``: quantized by torch, one without inputs computes garbage.
    """

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, like: Tensor) -> Tensor:
        """Repeat the bias: (batch, time, 0) -> (batch, time, channel)."""
        return self.bias.expand(*like.shape[:-1], -1)


class Spread(nn.Module):
    """The layer puts channels where they were in the dense model, 0 where one is gone.

    What follows the encoder stays as it is, whatever has become of the model dimension.

    Args:
        dims: where each channel in goes, rising.
        total: channels out.
    """

    def __init__(self, dims: Sequence[int], total: int):
        super().__init__()
        source = torch.full((total,), len(dims))
        source[list(dims)] = torch.arange(len(dims))
        # Not in the state dict: ESPnet's average of several epochs adds integers up.
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Spread (..., channel in) to (..., channel out)."""
        return nn.functional.pad(x, (0, 1)).index_select(-1, self.source)


def architecture_of(layout: Layout, own: Tensor) -> dict[str, Any]:
    """Return the sizes of what is left, as plain data.

    Args:
        layout: of the gated model.
        own: (unit,) final values, settled.

    Returns:
        ``subsampling`` and ``blocks`` of an encoder, with ``dims``, the channels
        between the layers that are left, if some are gone; ``decoder``, its layers.
        Those of a frontend are :mod:`espnet_prune.families.espnet.frontend`'s.
    """
    found: dict[str, Any] = {}
    for (section, position, *size), number in kept_sizes(layout, own).items():
        if section == FRONTEND:
            continue
        entries = found.setdefault(section, [])
        if not size:
            entries.append(number)
            continue
        if position == len(entries):
            entries.append({})
        entries[position][size[0]] = number
    blocks = [s.name for s in layout.structures if s.any_of]
    blocks = [name for name in blocks if not name.startswith(f"{FRONTEND}.")]
    for i, name in enumerate(blocks):
        if not own[layout.span(name)].any():
            found["blocks"][i] = None
    if MODEL_DIM in layout:
        dims = own[layout.span(MODEL_DIM)].nonzero().squeeze(1).tolist()
        if len(dims) < layout[MODEL_DIM].size:
            found["dims"] = dims
    return found


def cut(module: nn.Module, about: Description, architecture: Mapping[str, Any]) -> None:
    """Cut a stock module to sizes, in place. Which units stay is up to its weights.

    Args:
        module: ESPnet's encoder or decoder.
        about: what can go of it, without gates.
        architecture: of :func:`architecture_of`.

    Raises:
        ValueError: a size is missing, or no number of units that there are.
    """
    layout = about.layout(module)
    if ("dims" in architecture) != (MODEL_DIM in layout):
        raise ValueError("architecture: there are no dims of this kind of encoder")
    sizes, gone = read_sizes(layout, architecture)
    own = first_units(layout, sizes)
    blocks = [s.name for s in layout.structures if s.any_of]
    for i, name in enumerate(blocks):
        # A block of which nothing but its norm is left may still be there.
        own[layout.span(name)] = float(i not in gone)
    if MODEL_DIM in layout:
        span = layout.span(MODEL_DIM)
        own[span.start + len(architecture["dims"]) : span.stop] = 0
    reshape(module, layout, own)
    narrow(module, architecture.get("ranks") or {})


def narrow(module: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put layers of low rank in the places of linear ones.

    Args:
        module: ESPnet's encoder, cut.
        ranks: by name of the layer.

    Raises:
        ValueError: there is no such layer, or no such rank of it.
    """
    for name, rank in ranks.items():
        if name.startswith("embed.out"):
            name = f"embed.{linear_of(module.embed)}"
        layer = dict(module.named_modules()).get(name)
        if layer is None or not is_linear(layer):
            raise ValueError(f"architecture: ranks: there is no linear layer {name}")
        most = min(layer.weight.shape[:2])
        if type(rank) is not int or not 0 < rank <= most:
            raise ValueError(
                f"architecture: ranks: {name} must be an integer from 1 to {most}, "
                f"not {rank!r}"
            )
        _replace(module, name, LowRank(layer, rank))


@torch.no_grad()
def reshape(module: nn.Module, layout: Layout, own: Tensor) -> None:
    """Cut a stock module to what these values (unit,) leave, in place."""
    left = sliced(layout, module.state_dict(), own)
    reached = layout.effective(own) != 0
    for name, tensor in left.items():
        _put(module, name, tensor)
    for structure in layout.structures:
        present = bool(own[layout.span(structure.name)].any())
        if structure.any_of:
            block = module.get_submodule(structure.name)
            if not present and hasattr(block, "total_layer_num"):
                # A streaming encoder's goes on handing on what chunks have heard.
                for norm in structure.owns:
                    _replace(module, norm, nn.Identity())
            elif not present:
                _replace(module, structure.name, Skip())
        elif structure.owns and not present:
            beside = any(s.name == f"{structure.name}.out" for s in layout.structures)
            _replace(module, structure.name, Absent(0 if beside else None))
            for norm in structure.owns[1:]:
                _replace(module, norm, nn.Identity())
        elif f"{structure.name}.qk" in layout:
            heads, qk = widths(layout, layout[f"{structure.name}.qk"], reached)
            v = widths(layout, layout[f"{structure.name}.v"], reached)[1]
            attention = module.get_submodule(structure.name)
            if qk == v == attention.d_k:
                attention.h = heads
            else:
                sized = SizedAttention(attention, heads, qk, v)
                _replace(module, structure.name, sized)
    there = dict(module.named_modules())
    for name, part in there.items():
        if name.endswith("merge_proj") and f"{name}.weight" not in left:
            _replace(module, name, Constant(part.bias))
            fusion = f"{name.removesuffix('merge_proj')}depthwise_conv_fusion"
            if fusion in there:
                _replace(module, fusion, nn.Identity())


def read_sizes(
    layout: Layout, architecture: Mapping[str, Any]
) -> tuple[dict[tuple[Any, ...], int], set[int]]:
    """Read sizes by key, and the positions of blocks that are gone.

    Raises:
        ValueError: a size is missing, or no integer that is large enough.
    """
    sizes, gone = {}, set()
    for section in {s.key[0] for s in layout.structures if s.key}:
        there = 1 + max(s.key[1] for s in layout.structures if s.key[:1] == (section,))
        entries = architecture.get(section)
        if not isinstance(entries, list | tuple) or len(entries) != there:
            raise ValueError(
                f"architecture: {section} must list {there} entries, not {entries!r}"
            )
    for structure in layout.structures:
        if not structure.key:
            continue
        section, position, *size = structure.key
        entry = architecture[section][position]
        if entry is None:
            gone.add(position)
            number = 0
        elif size:
            number = entry.get(size[0]) if isinstance(entry, dict) else None
        else:
            number = entry
        if type(number) is not int or number < structure.least:
            raise ValueError(
                f"architecture: {'.'.join(map(str, structure.key))} must be an integer "
                f">= {structure.least}, not {number!r}"
            )
        sizes[structure.key] = number
    return sizes, gone


def check_dims(dims: Any, total: int) -> None:
    """Raise ValueError unless ``dims`` are rising indices of ``total`` channels."""
    indices = isinstance(dims, list) and all(type(n) is int for n in dims)
    if not indices or not dims or dims[0] < 0 or dims != sorted(set(dims)):
        raise ValueError(
            "architecture: dims must be a list of rising indices of channels, not "
            f"{dims!r}"
        )
    if dims[-1] >= total:
        raise ValueError(
            f"architecture: dims go up to {dims[-1]}, the dense model has {total} "
            "channels"
        )


def _replace(module: nn.Module, name: str, by: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, by)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module a tensor of another shape, and the sizes that it tells."""
    path, _, leaf = name.rpartition(".")
    holder = module.get_submodule(path)
    if leaf in holder._parameters:
        if holder._parameters[leaf].shape == tensor.shape:
            return
        holder._parameters[leaf] = nn.Parameter(tensor)
    else:
        holder._buffers[leaf] = tensor
    if leaf != "weight":
        return
    if isinstance(holder, nn.Linear):
        holder.out_features, holder.in_features = tensor.shape
    elif isinstance(holder, nn.Conv1d | nn.Conv2d):
        holder.out_channels = tensor.shape[0]
        if holder.groups > 1:
            holder.groups = holder.in_channels = tensor.shape[0]
        else:
            holder.in_channels = tensor.shape[1]
    elif isinstance(holder, nn.BatchNorm1d):
        holder.num_features = tensor.shape[0]
    elif isinstance(holder, nn.LayerNorm):
        holder.normalized_shape = tuple(tensor.shape)

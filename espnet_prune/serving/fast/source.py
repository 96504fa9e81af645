"""What a fast encoder is derived from: whether it can be, and whether it still is."""

import torch
from espnet.nets.pytorch_backend.conformer.swish import Swish
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from espnet_prune.families.espnet.layers.attention import RelPositionAttention
from espnet_prune.families.espnet.layers.block import ConformerBlock
from espnet_prune.families.espnet.layers.convolution import Convolution
from espnet_prune.families.espnet.layers.feed_forward import FeedForward
from espnet_prune.families.espnet.layers.spread import Spread
from espnet_prune.families.espnet.layers.subsampling import Subsampling

# Exactly these: a subclass may compute something else (adapters, quantized layers,
# parametrizations). Gates are none of them.
KNOWN = {
    *(Subsampling, ConformerBlock, FeedForward, RelPositionAttention, Convolution),
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.LayerNorm, nn.Dropout),
    *(RelPositionalEncoding, Spread, nn.ModuleList, nn.Sequential),
    *(Swish, nn.SiLU, nn.ReLU, nn.Tanh, nn.SELU, nn.Hardtanh),  # activations
}
# What a layer has of its class or as a parameter, unless something was put before that:
# patched methods, weights that are no parameters of it (as in copies for DataParallel).
SHADOWS = {"forward", "weight", "bias"}


class Source:
    """What there is in some layers at the moment.

    Looked at in every call, so not by the iterators of ``nn.Module``: with those it
    would take a millisecond instead of 0.3 (12 blocks).

    Args:
        layers: of an encoder.
    """

    def __init__(self, *layers: nn.Module):
        self.modules = list(layers)
        parameters: list[Tensor | None] = []
        buffers: list[Tensor | None] = []
        for module in self.modules:  # grows on the way
            if module._modules:
                inner = module._modules.values()
                self.modules += [m for m in inner if m is not None]
            if module._parameters:
                parameters += module._parameters.values()
            if module._buffers:
                buffers += module._buffers.values()
        self.parameters = [p for p in parameters if p is not None]
        self.buffers = [b for b in buffers if b is not None]

    def is_known(self) -> bool:
        """Whether a fast encoder computes all that is there."""
        return (
            set(map(type, self.modules)) <= KNOWN
            # Others are lent for a call (torch.func), or have products of their own.
            and set(map(type, self.parameters)) == {nn.Parameter}
            and not any(
                m._forward_hooks
                or m._forward_pre_hooks
                or not m.__dict__.keys().isdisjoint(SHADOWS)
                for m in self.modules
            )
        )

    def is_in_training(self) -> bool:
        """Whether a part of it is, such as Dropout that shall draw."""
        return any(m.training for m in self.modules)

    def is_differentiated(self, x: Tensor) -> bool:
        """Whether gradients could be asked for, of the input ``x`` or of a weight."""
        if unpack_dual(x).tangent is not None:  # forward mode does not mind no_grad
            return True
        tensors = [x, *self.parameters, *self.buffers]
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

    def marks(self) -> list[int]:
        """Others once something was replaced, or written to (but through ``.data``)."""
        tensors = self.parameters + self.buffers
        return [
            *map(id, self.modules),
            *map(id, tensors),
            *[t.data_ptr() for t in tensors],
            # Tensors made in inference mode count no versions.
            *[0 if t.is_inference() else t._version for t in tensors],
        ]

    def hold(self) -> list[object]:
        """References without which something else could come to have these marks."""
        tensors = self.parameters + self.buffers
        return [self.modules, tensors, [t.detach() for t in tensors]]

"""All prunable layers of a model, wherever they are in it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from espnet_prune.families.espnet.layers.cost import Counts, add, times_dim
from espnet_prune.pruning.gates import Gate, gates_of


def structures(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that own gates."""
    for module in model.modules():
        gated = any(isinstance(child, Gate) for child in module.children())
        if gated and not hasattr(module, "dim_gate"):
            yield module


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder of a model; one itself as it is."""
    return getattr(model, "encoder", model)


def dim_gate_of(model: nn.Module) -> Gate | None:
    """The gates of its encoder's model dimension, if it has any."""
    return getattr(encoder_of(model), "dim_gate", None)


def gated_counts(model: nn.Module, openness: Callable[[Gate], Tensor]) -> Counts:
    """What there is of all that can go, under the gates."""
    encoder, dims = encoder_of(model), dim_gate_of(model)
    if dims is None:
        return add(layer.gated_counts(openness) for layer in structures(model))
    inside = list(structures(encoder))
    own = add(layer.gated_counts(openness) for layer in inside)
    own = times_dim(own | encoder.architecture.norm_counts(), openness(dims).sum())
    others = [layer for layer in structures(model) if layer not in inside]
    return add([own, *(layer.gated_counts(openness) for layer in others)])


def set_masks(model: nn.Module, masks: dict[str, Tensor] | None) -> None:
    """Fix all gates to final values (by gate name), or set them free again."""
    for name, gate in gates_of(model).items():
        gate.mask = None if masks is None else masks[name]
    if masks is not None:
        close_empty(model)


def close_empty(model: nn.Module) -> None:
    """Close the gate of every submodule whose masks leave it no unit.

    Else its output bias would live on in the gated model, and not in the compact one.
    """
    for layer in structures(model):
        gate = getattr(layer, "module_gate", None)
        if gate is not None and not layer.kept():
            gate.mask = torch.zeros_like(gate.mask)

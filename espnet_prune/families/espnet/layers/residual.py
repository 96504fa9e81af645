"""What blocks have in common: submodules with a LayerNorm each, any of them gone."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


def layer_norm(size: int) -> nn.LayerNorm:
    """ESPnet's layer norm: its epsilon is not torch's."""
    return nn.LayerNorm(size, eps=1e-12)


def sliced_norm(norm: nn.LayerNorm, dims: Tensor | None) -> dict[str, Tensor]:
    """State dict of the compact norm, gate values folded into it.

    Args:
        norm: of the gated model.
        dims: (channel,) values of the gates of the model dimension, if it has any.
    """
    if dims is None:
        return norm.state_dict()
    return {k: (v * dims)[dims > 0] for k, v in norm.state_dict().items()}


def narrowed(layer: nn.Module, dims: Tensor | None) -> dict[str, Tensor]:
    """State dict of a compact layer that reads and writes the channels that are kept.

    Args:
        layer: one with gates.
        dims: (channel,) values of the gates of the model dimension, if it has any.
    """
    state = layer.sliced_state()
    if dims is not None:
        kept = dims.nonzero().squeeze(1)
        state |= {name: state[name].index_select(1, kept) for name in layer.READS}
        state |= {name: state[name].index_select(0, kept) for name in layer.WRITES}
    return state


class PrunableBlock(nn.Module):
    """Residual branches, each a norm and a submodule; those that are gone are None."""

    NORMS: ClassVar[dict[str, str]]  # submodule -> its LayerNorm

    def add_submodules(self, size: int, layers: Mapping[str, nn.Module | None]) -> None:
        """Add them under ESPnet's names, with a norm where there is a submodule."""
        for name, norm in self.NORMS.items():
            self.add_module(name, layers[name])
            self.add_module(norm, layer_norm(size) if layers[name] else None)

    def submodules(self) -> dict[str, nn.Module]:
        """The submodules that exist, by name."""
        named = {name: getattr(self, name) for name in self.NORMS}
        return {name: module for name, module in named.items() if module is not None}

    def is_left(self) -> bool:
        """Whether any submodule is there that the gates did not learn to close."""
        gates = (getattr(m, "module_gate", None) for m in self.submodules().values())
        return any(gate is None or bool(gate.is_open()) for gate in gates)

    def sliced_state(self, dims: Tensor | None = None) -> dict[str, Tensor]:
        """State dict of the compact block.

        Args:
            dims: (channel,) values of the gates of the model dimension, if it has any.
        """
        state = {}
        for name, module in self.submodules().items():
            if module.kept() == 0:
                continue
            norm = self.NORMS[name]
            for key, value in sliced_norm(getattr(self, norm), dims).items():
                state[f"{norm}.{key}"] = value
            for key, value in narrowed(module, dims).items():
                state[f"{name}.{key}"] = value
        return state

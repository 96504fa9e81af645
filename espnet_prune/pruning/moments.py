"""Collect what the linear layers of a model hear, and how much their outputs matter.

From these moments alone follow, for each layer, what is lost where some of its inputs
go (:mod:`.refit`), or where its matrix gets a lower rank (:mod:`.low_rank`). The loss
is second-order: gradients of an output stand for the curvature (Fisher information,
Kronecker-factored as in Martens and Grosse 2015, arXiv 1503.05671).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of the places where a 2-D convolution is applied, one in so many is looked at: there
# are tens of them to a frame, and neighbours are alike.
THINNED = 8


@dataclass
class Moments:
    """The second moments of a layer.

    Args:
        inputs: mean of x x^T over what the layer hears, (input + 1, input + 1); the
            last entry of x is 1, which multiplies the bias.
        outputs: sum of g g^T over the gradients of its outputs, (output, output).
    """

    inputs: Tensor
    outputs: Tensor

    def restricted(self, rows: Tensor, columns: Tensor) -> "Moments":
        """Return those of a layer with some outputs and inputs alone.

        Args:
            rows: bool (output,), what is left.
            columns: bool (input,), what is left.
        """
        columns = torch.cat([columns, columns.new_ones(1)])
        inputs = self.inputs[columns][:, columns]
        return Moments(inputs, self.outputs[rows][:, rows])


def is_linear(layer: nn.Module) -> bool:
    """Tell whether a layer is one matrix product for each frame."""
    if isinstance(layer, nn.Conv1d):
        return layer.kernel_size == (1,) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def is_dense(layer: nn.Module) -> bool:
    """Tell whether the layer has moments: every output reads every channel."""
    return is_linear(layer) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def matrix(layer: nn.Module) -> Tensor:
    """Return weight and bias of a layer as (output, input + 1), in double precision."""
    weight = layer.weight.detach().double().flatten(1)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    return torch.cat([weight, bias.double()[:, None]], 1)


@contextmanager
def collecting(
    model: nn.Module, names: Iterable[str]
) -> Iterator[Mapping[str, Moments]]:
    """Collect moments of layers in forward and backward passes in this context.

    Args:
        model: that the layers are of, in evaluation mode.
        names: of linear layers and 2-D convolutions.

    Yields:
        A mapping to which the moments of each layer are added, by name.
    """
    found: dict[str, Moments] = {}
    seen: dict[str, int] = {}
    passes: dict[str, int] = {}

    def hook(name: str):
        def on_output(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            x = heard(layer, inputs[0].detach())
            passes[name] = passes.get(name, -1) + 1
            if isinstance(layer, nn.Conv2d):
                x = x[passes[name] % THINNED :: THINNED]
            seen[name] = seen.get(name, 0) + len(x)
            x = F.pad(x, (0, 1), value=1.0)
            if name not in found:
                square = x.new_zeros(output_size(layer), output_size(layer)).double()
                found[name] = Moments((x.T @ x).double(), square)
            else:
                found[name].inputs += x.T @ x
            if not output.requires_grad:  # of constants, as positions are
                output.requires_grad_()
            output.register_hook(on_gradient(name, layer))

        return on_output

    def on_gradient(name: str, layer: nn.Module):
        def add(gradient: Tensor) -> None:
            dim = -1 if isinstance(layer, nn.Linear) else 1
            g = gradient.movedim(dim, -1).flatten(0, -2)
            found[name].outputs += g.T @ g

        return add

    with ExitStack() as stack:
        for name in names:
            layer = model.get_submodule(name)
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        yield found
    for name, moments in found.items():
        moments.inputs /= seen[name]


def heard(layer: nn.Module, x: Tensor) -> Tensor:
    """Line up what a layer multiplies, (sample, input), from its input.

    Args:
        layer: a linear layer, or a convolution without padding.
        x: (batch, ..., input), or of a convolution (batch, channel, ...).
    """
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    if isinstance(layer, nn.Conv1d):
        return x.transpose(1, 2).flatten(0, 1)
    unfolded = F.unfold(x, layer.kernel_size, stride=layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def output_size(layer: nn.Module) -> int:
    """Count the outputs of a layer."""
    return layer.weight.shape[0]

"""Train a model as int8 will run it: weights and inputs of products are rounded.

The loss sees the rounded values, and the gradients pass them by (fake quantization,
Jacob et al. 2018, arXiv 1712.05877), while the teacher computes in fp32. What is
rounded, and how, is what :mod:`espnet_prune.serving.int8` does.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from espnet_prune.serving.int8 import LEVELS, NARROW

STEPS = 255  # of an input, from its least to its largest value


class FakeInt8:
    """The rounding of a model's linear layers and convolutions.

    Args:
        model: whose layers get hooks that round their inputs, for good.
        prefix: of its tensors' names in a student, with the dot.
    """

    def __init__(self, model: nn.Module, prefix: str):
        self.weights: list[str] = []
        for name, layer in model.named_modules():
            if is_quantized(layer):
                self.weights.append(f"{prefix}{name}.weight")
                layer.register_forward_pre_hook(_round_input)

    def rounded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as int8 has them, by name."""
        return {name: rounded_weight(tensors[name]) for name in self.weights}


def is_quantized(layer: nn.Module) -> bool:
    """Tell whether int8 has a product for a layer."""
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() > 0
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)) or layer.groups > 1:
        return False
    plain = not any(layer.padding) and max(layer.dilation) == 1
    return plain and layer.in_channels >= NARROW


def rounded_weight(weight: Tensor) -> Tensor:
    """Round (output, ...) weights as int8 does, with a scale for each output."""
    largest = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12)
    scale = (largest / LEVELS).view(-1, *[1] * (weight.dim() - 1))
    return _straight_through(weight, (weight.detach() / scale).round() * scale)


def rounded_input(x: Tensor) -> Tensor:
    """Round the inputs (batch, ...) of a product, with a scale for each utterance."""
    values = x.detach().float()
    flat = values.flatten(1)
    least, most = flat.amin(1).clamp(max=0), flat.amax(1).clamp(min=0)
    shape = (-1, *[1] * (x.dim() - 1))
    scale = ((most - least) / STEPS).clamp(min=1e-12).view(shape)
    zero = (-least.view(shape) / scale).round()
    steps = ((values / scale).round() + zero).clamp(0, STEPS)
    return _straight_through(x, (steps - zero) * scale)


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """Take the rounded value, and the gradient of the other."""
    return x + (rounded.to(x.dtype) - x).detach()


def _round_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *more = inputs
    return (rounded_input(x), *more) if x.numel() else inputs

"""Self-conditioned CTC: blocks of an encoder see what CTC makes of those before.

Nozaki and Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based
ASR by conditioning on intermediate predictions" (arXiv 2104.02724). Behind the blocks
of ``interctc_layer_idx``, ESPnet's encoder adds ``conditioning_layer`` of CTC's softmax
to the channels. ESPnet's model makes that layer, and lends its CTC to the encoder.
"""

from typing import Any

from torch import Tensor, nn


def conditionings(encoder: nn.Module) -> int:
    """Count the blocks behind which an encoder is conditioned, 0 for most encoders.

    Args:
        encoder: of an ESPnet model, dense or compact.
    """
    if getattr(encoder, "conditioning_layer", None) is None:
        return 0
    return len(set(encoder.interctc_layer_idx))


def lent(model: nn.Module) -> dict[str, nn.Module]:
    """Return what the encoder of a model takes beside features, by option.

    Args:
        model: of ESPnet.

    Returns:
        ``ctc`` for a conditioned encoder, else nothing.
    """
    return {"ctc": model.ctc} if conditionings(model.encoder) else {}


class FreeCTC:
    """A stand-in for CTC that computes nothing, for an encoder whose work is counted.

    Args:
        encoder: which it is lent to.
    """

    def __init__(self, encoder: nn.Module):
        self.tokens = encoder.conditioning_layer.in_features

    def softmax(self, x: Tensor) -> Tensor:
        """Return zeros (batch, time, token) for (batch, time, channel)."""
        return x.new_zeros(*x.shape[:-1], self.tokens)

    @classmethod
    def lent(cls, encoder: nn.Module) -> dict[str, Any]:
        """Return what :func:`lent` does, of an encoder alone."""
        return {"ctc": cls(encoder)} if conditionings(encoder) else {}

"""Count parameters and multiply-accumulates of a loaded ESPnet model.

Counting, not formula: this is the check on the costs by formula, and it holds
for any ESPnet encoder with ``embed`` and ``encoders``, the stock Conformer included.
"""

import argparse
import copy

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.families.espnet.checkpoint import encoder_features, sampling_rate
from espnet_prune.families.espnet.conditioning import FreeCTC, conditionings
from espnet_prune.families.espnet.layers import shrunk
from espnet_prune.families.espnet.model import Lengths


def count_params(model: AbsESPnetModel) -> dict[str, int]:
    """Count every parameter once, trainable or not; buffers do not count.

    Returns:
        ``frontend`` (all before the encoder), ``subsampling`` (``encoder.embed``),
        ``blocks`` (the rest of the encoder), ``encoder`` (their sum), ``decoder``
        (attention decoder and CTC), ``total``.
    """

    def size(*modules: torch.nn.Module | None) -> int:
        unique = {p for m in modules if m is not None for p in m.parameters()}
        return sum(p.numel() for p in unique)

    subsampling, encoder = size(model.encoder.embed), size(model.encoder)
    return {
        "frontend": size(model.frontend, model.preencoder),
        "subsampling": subsampling,
        "blocks": encoder - subsampling,
        "encoder": encoder,
        "decoder": size(model.decoder, model.ctc),
        "total": size(model),
    }


@torch.no_grad()
def count_macs(
    model: AbsESPnetModel, args: argparse.Namespace, seconds: float = 10.0
) -> dict[str, int]:
    """Count MACs up to the encoder, of one utterance of ``seconds``, per second of it.

    One MAC is half a FLOP of ``torch.utils.flop_counter``: matrix products and
    convolutions; activations, norms and a frontend without weights count nothing. The
    attention part grows with the square of the length, so the figure belongs to its
    ``seconds``.

    Args:
        model: as ``build_model_from_file`` of an ESPnet task returns it.
        args: its second result, the training configuration.

    Returns:
        ``frontend`` (all before the encoder), ``subsampling``, ``blocks`` and
        ``encoder`` (the sum of these two), in MACs per second.

    Raises:
        InputError: the model has no frontend, so audio has no length in frames.
    """
    n_features = encoder_features(model)
    model.eval()
    device = next(model.parameters()).device
    n_samples = round(seconds * sampling_rate(args))
    audio = torch.randn(1, n_samples, device=device)  # (batch, sample)
    lengths = torch.tensor([n_samples], device=device)
    n_frames = model.frontend(audio, lengths)[1]
    features = torch.randn(1, int(n_frames), n_features, device=device)

    embed, whole = _macs(model.encoder, features)
    subsampling = round(embed / seconds)
    blocks = round((whole - embed) / seconds)
    return {
        "frontend": round(before_macs(model, n_samples) / seconds),
        "subsampling": subsampling,
        "blocks": blocks,
        "encoder": subsampling + blocks,
    }


def encoder_cost(
    encoder: torch.nn.Module, frames: int, features: int
) -> dict[str, float]:
    """Count parameters of an encoder, and MACs of one utterance.

    Args:
        encoder: dense or compact.
        frames: feature frames of the utterance.
        features: of each frame.

    Returns:
        ``params`` and ``macs``.
    """
    weight = next(encoder.parameters())
    x = torch.randn(1, frames, features, device=weight.device, dtype=weight.dtype)
    params = sum(p.numel() for p in encoder.parameters())
    return {"params": params, "macs": _macs(encoder.eval(), x)[1]}


def _macs(encoder: torch.nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Count MACs of subsampling and whole encoder, for (1, frame, feature)."""
    counter = FlopCounterMode(display=False)
    # ESPnet's attention keeps its weights: with their graph, no model can be copied.
    encoder = copy.deepcopy(encoder)
    # The counter knows attention as the products that it is made of, and its hooks want
    # gradients where a layer's output is a parameter.
    lengths = torch.tensor([x.shape[1]], device=x.device)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        encoder(x.requires_grad_(), lengths, **FreeCTC.lent(encoder))
    embed = counter.get_flop_counts().get(f"{type(encoder).__name__}.embed", {})
    return sum(embed.values()) / 2, counter.get_total_flops() / 2


@torch.no_grad()
def before_macs(model: AbsESPnetModel, samples: int) -> float:
    """Count MACs of what is before the encoder and has weights, for one utterance.

    Args:
        model: in evaluation mode.
        samples: of the utterance.
    """
    if not any(True for _ in model.frontend.parameters()):
        return 0.0  # its filters are no weights
    weight = next(model.frontend.parameters())
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        audio = torch.randn(1, samples, device=weight.device, dtype=weight.dtype)
        found = model.frontend(audio, torch.tensor([samples], device=weight.device))
        if model.preencoder is not None:
            model.preencoder(*found)
    return counter.get_total_flops() / 2


@torch.no_grad()
def rest_cost(model: AbsESPnetModel, lengths: Lengths) -> dict[str, float]:
    """Count the cost of a model beyond its encoder, for targets that count all of it.

    CTC's projection counts once more wherever it conditions the encoder.

    Args:
        model: dense or compact.
        lengths: of one utterance; the decoder is run on its transcript once (a search
            runs it on every hypothesis).

    Returns:
        ``params`` and ``macs``.
    """
    model.eval()
    tokens, time = lengths.tokens, shrunk(lengths.frames, model.encoder.embed)[-1]
    encoded = torch.zeros(1, time, model.encoder.output_size())
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        if model.ctc is not None:
            for _ in range(1 + conditionings(model.encoder)):
                model.ctc.ctc_lo(encoded)
        if model.decoder is not None:
            ids = torch.ones(1, tokens, dtype=torch.long)
            model.decoder(encoded, torch.tensor([time]), ids, torch.tensor([tokens]))
    counts = count_params(model)
    return {
        "params": counts["total"] - counts["encoder"],
        "macs": before_macs(model, lengths.samples) + counter.get_total_flops() / 2,
    }

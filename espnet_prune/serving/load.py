"""Loading a trained model for inference only, in a chosen precision."""

import argparse
from pathlib import Path
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor

from espnet_prune.base.device import find_device
from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.registry import find_kind, require
from espnet_prune.serving.fast.encoder import FastEncoder
from espnet_prune.serving.fast.precision import check_precision, data_type

# Of modules whose function is known: subclasses of others may compute something else.
OWNERS = ("torch.nn.modules", "espnet.nets.", "espnet2.asr.encoder.", "espnet_prune.")


class InferenceEncoder(AbsEncoder):
    """A Conformer encoder in one precision, without what only training needs.

    It has no parameters: it cannot be trained, saved or moved to another device.

    Args:
        encoder: ESPnet's, or the compact one made of it.
        features: of each frame.
        precision: of its products.
    """

    def __init__(self, encoder: torch.nn.Module, features: int, precision: str):
        super().__init__()
        self.size, self.precision = encoder.output_size(), precision
        self.fast = FastEncoder(encoder, features, precision)

    def output_size(self) -> int:
        return self.size

    @torch.no_grad()
    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: None = None,
        masks: Tensor | None = None,
        ctc: torch.nn.Module | None = None,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """Encode as ESPnet's encoder does."""
        return self.fast(xs_pad, ilens, masks, return_all_hs)


def load(
    config: str | Path,
    checkpoint: str | Path,
    precision: str = "fp32",
    device: str = "cpu",
    **decoding: Any,
) -> Speech2Text:
    """ESPnet's decoder for a dense or a compact model, with our encoder.

    Args:
        config: the model's ``config.yaml``.
        checkpoint: its weights.
        precision: of the encoder's products: ``fp32``, ``bf16`` (weights and the
            residual stream held so; norms and softmax computed in fp32), or ``int8``
            (weights, and inputs as they come; CPU only).
        device: "cpu" or "cuda".
        decoding: further arguments of ESPnet's ``Speech2Text``, such as ``beam_size``.

    Raises:
        InputError: a file is missing or does not fit the other, this encoder cannot be
            run by ours, there is no such device, it has no fast products in that
            precision, or the model's own format (``dtype``, ``quantize_asr_model``)
            does not go with it.
    """
    check_precision(precision, find_device(device))
    load_model(config, checkpoint)  # strictly, unlike ESPnet
    decoder = Speech2Text(str(config), str(checkpoint), device=device, **decoding)
    set_precision(decoder, precision, config)
    return decoder


def set_precision(
    decoder: Speech2Text, precision: str, config: str | Path = "encoder"
) -> None:
    """Replace the encoder of ESPnet's decoder by ours in one precision.

    In fp32 an encoder that ours cannot run stays.

    Raises:
        InputError: as for :func:`load`; ``config`` is named in it.
    """
    encoder = decoder.asr_model.encoder
    if isinstance(encoder, InferenceEncoder):
        raise InputError(
            config,
            f"its encoder is already in {encoder.precision}",
            "load the model again",
        )
    model, args = decoder.asr_model, decoder.asr_train_args
    if any(type(m).__module__.startswith("torch.ao") for m in encoder.modules()):
        raise InputError(
            "quantize_asr_model",
            "replaces the layers that ours are made of",
            'leave it out; precision "int8" quantizes the encoder',
        )
    if not runs_fast(encoder, args):
        if precision != "fp32":
            require(None, "precision", config)
        return
    weight = next(encoder.parameters())
    check_precision(precision, weight.device)
    possible = torch.float32, data_type(precision)
    if precision != "fp32" and weight.dtype not in possible:
        raise InputError(
            "dtype", f"{weight.dtype} does not go with {precision}", "use float32"
        )
    model.encoder = for_inference(model, args, precision)


def for_inference(
    model: ESPnetASRModel, args: argparse.Namespace, precision: str = "fp32"
) -> AbsEncoder:
    """The model's encoder without what only training needs, of its weights as they are.

    In fp32 an encoder that ours cannot compute is given back as it is.

    Args:
        model, args: as ``ASRTask.build_model_from_file`` returns them.
        precision: of its products.
    """
    if not runs_fast(model.encoder, args):
        return model.encoder
    features = args.input_size or model.frontend.output_size()
    return InferenceEncoder(model.encoder, features, precision)


def runs_fast(encoder: AbsEncoder, args: argparse.Namespace) -> bool:
    """Whether :class:`FastEncoder` computes what this encoder does.

    Args:
        encoder: of a loaded model.
        args: the model's training arguments.
    """
    kind = find_kind(args.encoder)
    if kind is None or "precision" not in kind.can:
        return False
    try:
        kind.rules.check(args.encoder_conf)
    except ValueError:
        return False
    # Adapters and parametrizations put other classes in their place, or hooks on them.
    return all(
        type(m).__module__.startswith(OWNERS) and not m._forward_hooks
        for m in encoder.modules()
    )

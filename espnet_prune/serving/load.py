"""Loading a trained model for inference only, in a chosen precision."""

from pathlib import Path
from typing import Any

import torch
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.device import find_device
from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.registry import require
from espnet_prune.serving.fast.precision import check_precision, data_type
from espnet_prune.serving.inference import (
    InferenceEncoder,
    for_inference,
    refuse_gates,
    runs_fast,
)


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
        InputError: a file is missing or does not fit the other, it is a pruning run,
            this encoder cannot be run by ours, there is no such device, it has no fast
            products in that precision, or the model's own format (``dtype``,
            ``quantize_asr_model``) does not go with it.
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
    refuse_gates(vars(args), config)
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

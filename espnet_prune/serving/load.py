"""Loading a trained model for inference only, in a chosen precision."""

from pathlib import Path
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor

from espnet_prune.base.device import find_device
from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.conformer import PrunableConformerEncoder
from espnet_prune.families.espnet.conversion import with_prunable_encoder
from espnet_prune.serving.fast.encoder import FastEncoder
from espnet_prune.serving.fast.precision import check_precision, data_type
from espnet_prune.serving.fast.source import Source


class InferenceEncoder(AbsEncoder):
    """A prunable encoder in one precision, without what only training needs.

    It has no parameters: it cannot be trained, saved or moved to another device.
    """

    def __init__(self, encoder: PrunableConformerEncoder, precision: str):
        super().__init__()
        self.size, self.precision = encoder.output_size(), precision
        self.fast = FastEncoder(*encoder.layers, precision)

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
        """As that of :class:`PrunableConformerEncoder`."""
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
    if any(type(m).__module__.startswith("torch.ao") for m in encoder.modules()):
        raise InputError(
            "quantize_asr_model",
            "replaces the layers that ours are made of",
            'leave it out; precision "int8" quantizes the encoder',
        )
    model = with_prunable_encoder(decoder.asr_model, decoder.asr_train_args)
    if not _can_run(model.encoder):
        if precision == "fp32":
            return
        raise InputError(
            config,
            f"its encoder ({decoder.asr_train_args.encoder}) is not one that can run "
            f"in {precision} here",
            "use a Conformer that could be pruned, or a pruned one once it is exported",
        )
    weight = next(model.encoder.parameters())
    check_precision(precision, weight.device)
    possible = torch.float32, data_type(precision)
    if precision != "fp32" and weight.dtype not in possible:
        raise InputError(
            "dtype", f"{weight.dtype} does not go with {precision}", "use float32"
        )
    model.encoder = InferenceEncoder(model.encoder, precision)


def _can_run(encoder: AbsEncoder) -> bool:
    """Whether ours computes what this one does: not gates, not adapters."""
    ours = isinstance(encoder, PrunableConformerEncoder)
    return ours and Source(*encoder.layers).is_known()

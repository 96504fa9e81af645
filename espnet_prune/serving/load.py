"""Load a trained model for inference only, in a chosen precision."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.device import find_device
from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.families.espnet.checkpoint import (
    encoder_features,
    load_model,
    plain_file,
    read_state,
)
from espnet_prune.families.espnet.tasks import decoded_with, task_of
from espnet_prune.families.registry import kind_of, require
from espnet_prune.serving.decoders import check_symbols, decoder_for
from espnet_prune.serving.inference import (
    PRUNING_RUN,
    AutocastEncoder,
    RuntimeEncoder,
    check_precision,
    has_runtime,
)
from espnet_prune.serving.sizes import SizedEncoders, resize


def load(
    config: str | Path,
    checkpoint: str | Path,
    precision: str = "fp32",
    device: str = "cpu",
    size: str | float | None = None,
    **decoding: Any,
) -> Speech2Text:
    """Load ESPnet's decoder for a dense or a compact model, with a faster encoder.

    It is ``Speech2Text`` of the model's task: ``espnet2.bin.asr_inference``, or of OWSM
    ``espnet2.bin.s2t_inference``, which takes ``lang_sym`` and ``task_sym``, too.

    On CPUs onnxruntime computes the encoder. Its file is written when a model is loaded
    for the first time, which takes seconds, and kept where torch keeps downloads.

    Args:
        config: the model's ``config.yaml``.
        checkpoint: its weights.
        precision: of the encoder's products: ``fp32``, ``int8`` (CPUs: weights, and
            inputs as they come) or ``bf16`` (GPUs).
        device: "cpu" or "cuda".
        size: of a checkpoint of several sizes (``--method slimmable``), the fraction
            that is gone, as ``"0.75"``, or ``"0"``; :func:`resize` switches later.
        decoding: further arguments of ESPnet's ``Speech2Text``, such as ``beam_size``;
            or ``ctc_greedy=True``, or ``ctc_beam``, a dict of
            :class:`~espnet_prune.serving.beam.BeamOptions`, for the project's own.

    Raises:
        InputError: a file is missing or does not fit the other, it is a pruning run,
            there is no such device, the encoder or the device cannot do that precision,
            or the model's own format (``dtype``, ``quantize_asr_model``) does not go
            with it.
    """
    check_precision(precision, find_device(device))
    args = load_model(config, checkpoint)[1]  # strictly, unlike ESPnet
    check_symbols(decoding, args.token_list, "decoding")
    if decoding.get("lm_file") is not None:
        read_state(decoding["lm_file"])  # what is refused here, ESPnet would run
    make = decoder_for(decoding, task_of(vars(args)))
    with plain_file(checkpoint) as file:
        decoder = make(str(config), file, device=device, **decoding)
    prepare = partial(set_precision, decoder, precision, config)
    if size is None:
        prepare()
        return decoder
    decoder.sizes = SizedEncoders(decoder, Path(checkpoint), prepare)
    resize(decoder, size)
    return decoder


def set_precision(
    decoder: Speech2Text, precision: str, config: str | Path = "encoder"
) -> None:
    """Replace the encoder of ESPnet's decoder by one for inference in a precision.

    In fp32 an encoder that is of none of the kinds that can be pruned stays, as it does
    on a GPU and where onnxruntime is not installed.

    Raises:
        InputError: as for :func:`load`; ``config`` is named in it.
    """
    model, args = decoded_with(decoder)
    encoder = model.encoder
    if isinstance(encoder, RuntimeEncoder | AutocastEncoder):
        what = f"its encoder is already in {encoder.precision}"
        raise InputError(config, what, "load the model again")
    refuse_gates(vars(args), config)
    if any(type(m).__module__.startswith("torch.ao") for m in encoder.modules()):
        raise InputError(
            f"quantize_{task_of(vars(args)).name}_model",
            "replaces the layers that a runtime knows",
            'leave it out; precision "int8" quantizes the encoder',
        )
    weight = next(encoder.parameters())
    check_precision(precision, weight.device)
    if weight.dtype != torch.float32:
        if precision == "fp32":
            return
        what = f"{weight.dtype} does not go with {precision}"
        raise InputError("dtype", what, "use float32")
    if precision == "bf16":
        model.encoder = AutocastEncoder(encoder)
    elif weight.device.type == "cpu" and runs(vars(args), precision, config):
        features = encoder_features(model, args.input_size)
        model.encoder = RuntimeEncoder(encoder, features, precision)


def runs(config: Mapping[str, Any], precision: str, where: object) -> bool:
    """Tell whether the runtime takes the encoder of a model; in fp32 it need not.

    Raises:
        InputError: in int8 it would have to.
    """
    kind = kind_of(config)
    try:
        if kind is not None:
            kind.rules.check(config["encoder_conf"])
    except OptionError:
        kind = None
    if precision != "fp32":
        require(kind, "runtime", where)
    takes = kind is not None and "runtime" in kind.can
    if takes and not has_runtime():
        logging.warning("onnxruntime or onnxscript is not installed: torch runs fp32")
    return takes and has_runtime()


def refuse_gates(config: Mapping[str, Any], where: object) -> None:
    """Refuse to decode with a pruning run: its encoder knows nothing of its gates.

    Args:
        config: of the model.
        where: the file to name.

    Raises:
        InputError: it has gates.
    """
    if (config.get("model_conf") or {}).get("gates") is not None:
        raise InputError(where, *PRUNING_RUN)

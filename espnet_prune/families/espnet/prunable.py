"""Which models can be pruned, told by their configs alone."""

from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError

# ESPnet's name of an encoder, or ours -> ours.
ENCODERS = {
    "conformer": "prunable_conformer",
    "prunable_conformer": "prunable_conformer",
    "transformer": "prunable_transformer",
    "prunable_transformer": "prunable_transformer",
    "e_branchformer": "prunable_e_branchformer",
    "prunable_e_branchformer": "prunable_e_branchformer",
}
DECODERS = ("transformer", "prunable_transformer")


def check_student(config: dict[str, Any], source: str | Path) -> None:
    """Refuse a model that cannot be made a student, dense or compact.

    Args:
        config: of an ESPnet training, or the ``config.yaml`` that it left.
        source: where it was read, for messages.

    Raises:
        InputError: names what it is that cannot.
    """
    encoder = config.get("encoder")
    if encoder not in ENCODERS:
        raise InputError(
            source,
            f"encoder {encoder!r} cannot be pruned",
            f"use a model whose encoder is one of {tuple(ENCODERS)}",
        )
    if config.get("model") not in (None, "espnet"):
        raise InputError(source, f"model {config['model']!r} cannot be pruned")
    unsupported = ("preencoder", "postencoder", "joint_net_conf")
    given = [k for k in unsupported if config.get(k) is not None]
    if config.get("decoder") == "transducer" or given:
        raise InputError(
            source,
            f"cannot be distilled: {given or 'a transducer decoder'}",
            "use a CTC, attention or CTC/attention model",
        )


def check_gates(config: dict[str, Any], source: str | Path, decoder: bool) -> None:
    """Refuse a student that cannot have gates.

    Args:
        config, source: as for :func:`check_student`.
        decoder: whether its decoder is to be pruned, too.

    Raises:
        InputError: names what it is that cannot.
    """
    if (config.get("encoder_conf") or {}).get("architecture") is not None:
        raise InputError(source, "is compact already", "prune its dense teacher again")
    if decoder and config.get("decoder") not in DECODERS:
        raise InputError(
            source,
            f"decoder {config.get('decoder')!r} cannot be pruned",
            f"leave out prune_decoder, or use one of {DECODERS}",
        )


def encoder_options(config: dict[str, Any]) -> dict[str, Any]:
    """``encoder_conf`` as a student's, which has gates.

    Regularisers of the teacher's training are left out.
    """
    options = dict(config.get("encoder_conf") or {})
    for name in ("stochastic_depth_rate", "layer_drop_rate"):
        options.pop(name, None)
    return options

"""Tell by their configs alone which ESPnet models can be pruned."""

from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.families.espnet.rules import DECODER
from espnet_prune.families.registry import KINDS, Kind, kind_of

DECODERS = ("transformer", "prunable_transformer")


def check_student(config: dict[str, Any], source: str | Path) -> Kind:
    """Refuse a model that cannot be made a student, dense or compact.

    Args:
        config: of an ESPnet training, or the ``config.yaml`` that it left.
        source: where it was read, for messages.

    Returns:
        the kind of its encoder, as it is with its options.

    Raises:
        InputError: names what it is that cannot.
    """
    kind = kind_of(config)
    if kind is None:
        raise InputError(
            source,
            f"encoder {config.get('encoder')!r} cannot be pruned",
            f"use a model whose encoder is one of {tuple(KINDS)}",
        )
    try:
        kind.rules.check(config.get("encoder_conf") or {})
    except OptionError as e:
        raise InputError(source, str(e)) from e
    if config.get("model") not in (None, "espnet"):
        raise InputError(source, f"model {config['model']!r} cannot be pruned")
    if config.get("preencoder") not in (None, "linear"):
        what = f"a model with preencoder {config['preencoder']!r} cannot be pruned"
        raise InputError(source, what, "use one with a linear preencoder, or none")
    unsupported = ("postencoder", "joint_net_conf")
    given = [k for k in unsupported if config.get(k) is not None]
    if config.get("decoder") == "transducer" or given:
        raise InputError(
            source,
            f"cannot be distilled: {given or 'a transducer decoder'}",
            "use a CTC, attention or CTC/attention model",
        )
    return kind


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
    if not decoder:
        return
    if config.get("decoder") not in DECODERS:
        raise InputError(
            source,
            f"decoder {config.get('decoder')!r} cannot be pruned",
            f"leave out prune_decoder, or use one of {DECODERS}",
        )
    try:
        DECODER.check(config.get("decoder_conf") or {})
    except OptionError as e:
        raise InputError(source, str(e)) from e

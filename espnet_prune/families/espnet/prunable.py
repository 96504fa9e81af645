"""Tell by their configs alone which ESPnet models can be pruned."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.families.espnet.rules import DECODER, FRONTEND
from espnet_prune.families.registry import KINDS, UPSTREAM, Kind, kind_of

DECODERS = ("transformer", "prunable_transformer")
SELF_SUPERVISED = "s3prl"  # the frontend that can be pruned
TRANSLATE = (
    "translate the trained model, and prune what that leaves: python3 -m "
    "espnet_prune.cli.translate_frontend --config {} --model WEIGHTS --out DIR"
)


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


def check_gates(
    config: dict[str, Any], source: str | Path, beside: Collection[str] = ()
) -> None:
    """Refuse a student that cannot have gates.

    Args:
        config, source: as for :func:`check_student`.
        beside: those of :data:`BESIDE` that are to be pruned, too.

    Raises:
        InputError: names what it is that cannot.
    """
    if (config.get("encoder_conf") or {}).get("architecture") is not None:
        raise InputError(source, "is compact already", "prune its dense teacher again")
    if "frontend" in beside:
        check_frontend(config, source)
    if "decoder" not in beside:
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


def check_frontend(config: dict[str, Any], source: str | Path) -> None:
    """Refuse a frontend that cannot be pruned.

    Args:
        config, source: as for :func:`check_student`.

    Raises:
        InputError: names what it is that cannot, and the mend.
    """
    # Here, because it takes seconds.
    from espnet_prune.families.ssl.configs import PRUNED, read_config
    from espnet_prune.families.ssl.directory import locate
    from espnet_prune.families.ssl.fairseq import UPSTREAMS

    name, conf = config.get("frontend") or "default", config.get("frontend_conf") or {}
    options = conf.get("frontend_conf") or {}
    upstream = options.get("upstream")
    mend = f"leave out prune_frontend, or train with frontend: {SELF_SUPERVISED} and "
    mend += f"upstream: {UPSTREAM}, or one of {', '.join(UPSTREAMS)} (docs/ssl.md)"
    if name != SELF_SUPERVISED:
        raise InputError(source, f"frontend {name!r} cannot be pruned", mend)
    if upstream not in (UPSTREAM, *UPSTREAMS):
        what = f"upstream {upstream!r} of its frontend cannot be pruned"
        raise InputError(source, what, mend)
    try:
        FRONTEND.check(conf)
    except OptionError as e:
        raise InputError(source, str(e), "leave out prune_frontend") from e
    if upstream in UPSTREAMS:
        what = f"upstream {upstream!r} of its frontend cannot be pruned as it is"
        raise InputError(source, what, TRANSLATE.format(source))
    path, told = options.get("path_or_url"), options.get("extra_conf") or {}
    kind = (told.get("config") or {}).get("model_type")
    if kind is None:
        if path is None:
            raise InputError(source, "its frontend lacks path_or_url", mend)
        kind = read_config(locate(path)).model_type
    if kind.startswith(PRUNED):
        what = "its frontend is compact already"
        raise InputError(source, what, "leave out prune_frontend")

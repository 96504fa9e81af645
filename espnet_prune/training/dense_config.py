"""Check the config of a dense training before its data are made."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.serving.streaming import PART, check_streaming
from espnet_prune.training.espnet_options import check_keys, refuse_number

_UNITS = ("fs",)  # may be texts: 16k
_KEPT = re.compile(r"valid\.(.+?)\.(ave|best)(_\d+best)?\.pth")


def check_dense(source: Path, config: Mapping[str, Any], model: str | None) -> None:
    """Refuse what would end a training, or what uses it, after hours.

    Args:
        source: the training config.
        config: its content.
        model: the file of weights that later stages take; None: they do not run.

    Raises:
        InputError: an option that there is not, text in place of a number, or a model
            file that the training will not make.
    """
    check_keys(source, config)
    # What is in no section ESPnet's own parser converts.
    sections = {k: v for k, v in config.items() if isinstance(v, Mapping)}
    for name, text in _texts(sections):
        refuse_number(source, name, text)
    check_arguments(source, config)
    if found := _KEPT.fullmatch(model or ""):
        kept = [
            name
            for which, name, *_ in config.get("best_model_criterion") or []
            if which == "valid"
        ]
        if found[1] not in kept and "best_model_criterion" in config:
            mend = f"give --inference_asr_model valid.{(kept or ['loss'])[0]}.ave.pth"
            what = f"its best_model_criterion keeps no {model}"
            raise InputError(source, what, mend)
        if found[1] == "acc" and not has_decoder(config):
            what = "a model without a decoder (ctc_weight: 1.0) has no accuracy"
            mend = "set best_model_criterion: [[valid, loss, min]], and give "
            mend += "--inference_asr_model valid.loss.ave.pth"
            raise InputError(source, what, mend)


def check_arguments(source: Path, config: Mapping[str, Any]) -> None:
    """Refuse options that optimizer or scheduler have not, as after a change of it.

    Raises:
        InputError: names the option, and what it may be.
    """
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    for part, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
        known = classes.get(str(config.get(part)).lower())
        if known is None:
            continue  # none, or ESPnet's parser says which there are
        takes = [*inspect.signature(known).parameters]
        for name in config.get(f"{part}_conf") or {}:
            if name not in takes:
                what = f"{part}_conf: {config[part]} has no option {name!r}"
                mend = f"it has: {', '.join(takes[1:])}"
                raise InputError(source, what, mend)


def check_search(
    source: Path, config: Mapping[str, Any], search: Mapping[str, Any]
) -> None:
    """Refuse a search that scores with a part that the model has not.

    Args:
        source: the model's config.
        config: its content.
        search: options of decoding.

    Raises:
        InputError: names the weight to change, or the encoder that does not stream.
    """
    if PART in search:
        check_streaming(source, config, search[PART])
    own = search.keys() & {"ctc_greedy", "ctc_beam"}
    if not has_ctc(config):
        what = "has no CTC head (ctc_weight: 0), which this decoding needs"
        if own:
            mend = "take a copy of conf/decode.yaml with ctc_weight: 0.0"
            raise InputError(source, what, mend)
        if search.get("ctc_weight", 0.5) > 0:
            mend = "set ctc_weight: 0.0 in a copy of --inference_config"
            raise InputError(source, what, mend)
    if not has_decoder(config) and not own and search.get("ctc_weight", 0.5) < 1:
        what = "has no decoder (ctc_weight: 1.0), which this decoding needs"
        mend = "take conf/decode_greedy.yaml, or set ctc_weight: 1.0 in a copy"
        raise InputError(source, what, mend)


def has_ctc(config: Mapping[str, Any]) -> bool:
    """Tell whether a model has a CTC head."""
    return (config.get("model_conf") or {}).get("ctc_weight", 0.5) > 0


def has_decoder(config: Mapping[str, Any]) -> bool:
    """Tell whether a model has a decoder."""
    return (config.get("model_conf") or {}).get("ctc_weight", 0.5) < 1


def _texts(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in a config, but for those with units, with their names."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key not in _UNITS:
                yield from _texts(value, f"{name}.{key}".lstrip("."))
    elif isinstance(values, str):
        yield name, values

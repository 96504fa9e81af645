"""Check the config of a dense training before its data are made.

ESPnet judges itself: its parser reads config and options, and its model, optimizer and
scheduler are made, without weights and without data.
"""

import argparse
import copy
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch
from espnet2.asr.ctc import CTC
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.serving.streaming import PART, check_streaming
from espnet_prune.training.espnet_options import (
    check_config,
    check_options,
    parser_for,
    refuse_number,
)
from espnet_prune.training.task import DenseASRTask
from espnet_prune.training.three_stages import completed

_UNITS = ("fs",)  # may be texts: 16k
_KEPT = re.compile(r"valid\.(.+?)\.(ave|best)(_\d+best)?\.pth")
# Options of classes that load, or download, a model while they are made.
_LOADS = r".*_(url|path)|download_dir|frontends|masking_conf"
# What ESPnet gives to a class itself.
_GIVEN = "params", "optimizer", "vocab_size", "odim", "encoder_output_size"
_TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "<sos/eos>"]  # any will do
_FEATURES = 80


def read_dense(source: Path, options: Sequence[str]) -> dict[str, Any]:
    """Read a training config, and options beside it, as ESPnet's training does.

    Args:
        source: the training config.
        options: of ``--asr_args``.

    Returns:
        ESPnet's options of the training.

    Raises:
        InputError: an option that there is not, or a value that it cannot have.
    """
    check_options("--asr_args", options)
    config = read_yaml(source)
    check_config(source, config)
    # What is in no section ESPnet's own parser converts.
    sections = {k: v for k, v in config.items() if isinstance(v, Mapping)}
    for name, text in _texts(sections):
        refuse_number(source, name, text)
    command = ["--config", str(source), *options]
    return vars(parser_for(source).parse_args(command))


def check_weights(source: Path, config: Mapping[str, Any], model: str | None) -> None:
    """Refuse a file of weights that a training will not make.

    Args:
        source: the training config.
        config: of :func:`read_dense`.
        model: the file of weights that later stages take; None: they do not run.

    Raises:
        InputError: names what the training keeps.
    """
    if found := _KEPT.fullmatch(model or ""):
        kept = [n for which, n, _ in config["best_model_criterion"] if which == "valid"]
        if found[1] not in kept:
            mend = f"give --inference_asr_model valid.{(kept or ['loss'])[0]}.ave.pth"
            what = f"its best_model_criterion keeps no {model}"
            raise InputError(source, what, mend)
        if found[1] == "acc" and not has_decoder(config):
            what = "a model without a decoder (ctc_weight: 1.0) has no accuracy"
            mend = "set best_model_criterion: [[valid, loss, min]], and give "
            mend += "--inference_asr_model valid.loss.ave.pth"
            raise InputError(source, what, mend)


def check_made(source: Path, config: Mapping[str, Any], options: Sequence[str]) -> None:
    """Refuse a config of which ESPnet makes no model, optimizer or scheduler.

    The model has no weights, for it is on torch's meta device where it can be, and no
    statistics; of what loads weights while it is made only the options are looked at.

    Args:
        source: the training config.
        config: of :func:`read_dense`.
        options: of ``--asr_args``.

    Raises:
        InputError: names the section, or the option, and ESPnet's reason; or the
            training keeps models by a name that the model does not report.
    """
    # The model's making changes what it is given.
    told = argparse.Namespace(**copy.deepcopy(dict(config)))
    told.collect_stats = True  # no data are there to count the steps of
    told.scheduler_conf = completed(told)
    told.token_list = list(_TOKENS)
    classes = _classes(told)

    def where(section: str) -> object:
        option = "--" + section.removesuffix("_conf")
        return "--asr_args" if option in " ".join(options) else source

    for part, known in classes.items():
        _check_names(where(part), part, known, told)
    with _judging(where, "optim_conf"):
        (optimizer,) = DenseASRTask.build_optimizers(told, torch.nn.Linear(1, 1))
    if told.scheduler is not None:
        with _judging(where, "scheduler_conf"):
            classes["scheduler"](optimizer, **told.scheduler_conf)
    if told.normalize is not None and _has(classes["normalize"], "stats_file"):
        told.normalize = None  # stage 10 makes the file
    if told.frontend is not None and _has(classes["frontend"], _LOADS):
        told.input_size = _FEATURES
    others = (made for part, made in classes.items() if part != "frontend")
    if not any(_has(made, _LOADS) for made in others):
        with _judging(where, "", classes):
            try:
                with torch.device("meta"):
                    DenseASRTask.build_model(told)
            except NotImplementedError:  # torch's, of what computes with its weights
                DenseASRTask.build_model(told)
    _check_criteria(where, config, classes["model"])


def _classes(told: argparse.Namespace) -> dict[str, type]:
    """Return the class of each part of a training that has a section of options."""
    choices = {c.name: c.get_class for c in DenseASRTask.class_choices_list}
    choices |= {"optim": optim_classes.get, "scheduler": scheduler_classes.get}
    named = {part: getattr(told, part) for part in choices}
    found = {p: choices[p](name) for p, name in named.items() if name is not None}
    return found | {"ctc": CTC}


def _has(made: type, option: str) -> bool:
    """Tell whether a class has an option of a name that matches."""
    return any(
        re.fullmatch(option, name) for name in inspect.signature(made).parameters
    )


def _check_names(
    where: object, part: str, made: type, told: argparse.Namespace
) -> None:
    """Refuse options that a class has not, as after a change of the class."""
    takes, conf = inspect.signature(made).parameters, getattr(told, f"{part}_conf")
    if conf is None:
        raise InputError(where, f"{part}_conf is empty", "leave it out, or write {}")
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return
    for option in conf:
        if option not in takes:
            what = f"{part}_conf: {getattr(told, part, part)} has no option {option!r}"
            own = ", ".join(n for n in takes if n not in _GIVEN)
            raise InputError(where, what, f"it has: {own}")


@contextmanager
def _judging(
    where: Callable[[str], object],
    section: str,
    classes: Mapping[str, type] | None = None,
) -> Iterator[None]:
    """Make one line of any exception of ESPnet's.

    Args:
        where: file or option that holds a section.
        section: of all that is made; else ``classes``, section by section, tell whose
            making failed.
    """
    try:
        yield
    except Exception as e:
        for frame, _ in traceback.walk_tb(e.__traceback__):
            for part, made in (classes or {}).items():
                if isinstance(frame.f_locals.get("self"), made):
                    section = f"{part}_conf"
        # Of an assertion without words, itself.
        said = str(e).strip() or traceback.extract_tb(e.__traceback__)[-1].line
        reason = ": ".join([type(e).__name__, *said.splitlines()[:1]])
        what = f"{section or 'its model'}: ESPnet cannot use that ({reason})"
        raise InputError(where(section or "model"), what, "correct it") from e


def _check_criteria(
    where: Callable[[str], object], config: Mapping[str, Any], model: type
) -> None:
    """Refuse to choose epochs by what a model does not report."""
    said = inspect.unwrap(model.forward).__code__.co_consts
    # ESPnet's own default names the accuracy, whatever the model.
    names = ["acc", *(text for text in said if isinstance(text, str))]
    reported = "|".join(re.escape(n).replace(r"\{\}", r"\d+") for n in names)
    criteria = {"best_model_criterion": config["best_model_criterion"]}
    for option in ("early_stopping_criterion", "val_scheduler_criterion"):
        criteria[option] = [config[option]]
    for option, chosen in criteria.items():
        for phase, name, *mode in chosen:
            known = phase in ("train", "valid") and re.fullmatch(reported, name)
            if not known or {*mode} - {"min", "max"}:
                given = ",".join([phase, name, *mode])
                what = f"{option}: the model reports no {given}"
                mend = "write as valid,acc,max; there are loss, loss_att, loss_ctc, "
                mend += "acc, cer, wer, cer_ctc"
                raise InputError(where(option), what, mend)


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
    return _ctc_weight(config) > 0


def has_decoder(config: Mapping[str, Any]) -> bool:
    """Tell whether a model has a decoder."""
    return _ctc_weight(config) < 1


def _ctc_weight(config: Mapping[str, Any]) -> float:
    return float((config.get("model_conf") or {}).get("ctc_weight", 0.5))


def _texts(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in a config, but for those with units, with their names."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key not in _UNITS:
                yield from _texts(value, f"{name}.{key}".lstrip("."))
    elif isinstance(values, str):
        yield name, values

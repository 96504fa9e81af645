"""Describe a self-supervised frontend: ESPnet's of s3prl, with this package's upstream.

All that is declared for the encoder itself (:mod:`espnet_prune.families.ssl.describe`)
holds inside of an ASR model, under longer names and in one group. A compact one is
written into the config of the ASR model, whose weights hold its own. Few models have
such a frontend: what imports transformers is imported where it is needed.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.compact import FRONTEND
from espnet_prune.families.parts import Description
from espnet_prune.families.registry import UPSTREAM
from espnet_prune.families.ssl import describe as speech
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.structure import Structure

PREFIX = f"{FRONTEND}."
WHOLE = f"{PREFIX}upstream.upstream.model"
INSIDE = f"{WHOLE}."


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the self-supervised encoder in an ASR model, as transformers has it."""
    return model.get_submodule(WHOLE)


def describe(encoder: nn.Module, options: GateOptions) -> Description:
    """Describe what can go of the self-supervised encoder in an ASR model.

    Args:
        encoder: as :func:`encoder_of` returns it.
        options: what has gates, and how they are made.
    """
    about = speech.describe(encoder, options, prefix=INSIDE)
    about.structures = [
        replace(
            structure,
            group=structure.group and FRONTEND,
            thing=structure.thing and PREFIX + structure.thing,
            key=structure.key and (FRONTEND, *structure.key),
        )
        for structure in about.structures
    ]
    # It never goes; what is in no other structure counts with this one, and not with
    # the rest of the encoder behind it.
    whole = Structure(WHOLE, 1, FRONTEND, owns=(WHOLE,), learned=False)
    about.structures.append(whole)
    about.times = {name: PREFIX + clock for name, clock in about.times.items()}
    about.extra = {name: PREFIX + clock for name, clock in about.extra.items()}
    return about


def clocks(encoder: nn.Module, samples: int) -> dict[str, float]:
    """Count how often its tensors are applied to an utterance, by clock.

    Args:
        encoder: as for :func:`describe`.
        samples: of the utterance.
    """
    found = speech.clocks(encoder, samples)
    return {PREFIX + clock: times for clock, times in found.items()}


def architecture_of(layout: Layout, own: Tensor) -> dict[str, Any] | None:
    """Return the sizes of what is left, as plain data; None where it has no gates.

    Args:
        layout: of the gated ASR model.
        own: (unit,) final values, settled.
    """
    inside = [s for s in layout.structures if s.name.startswith(INSIDE)]
    if not inside:
        return None
    from espnet_prune.families.ssl import model as speech

    values = torch.cat([own[layout.span(structure.name)] for structure in inside])
    alone = [replace(structure, key=structure.key[1:]) for structure in inside]
    return speech.architecture_of(Layout(alone, layout.shapes), values)


def self_contained(
    conf: Mapping[str, Any],
    model: nn.Module,
    architecture: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a ``frontend_conf`` that no longer names a directory, which may be gone.

    What the upstream reads of one stands in it: config and preprocessor. The weights
    are those of the ASR model.

    Args:
        conf: ``frontend_conf`` of ESPnet's config; of any frontend but that of s3prl
            with our upstream it comes back as it is.
        model: the ASR model that was made by it.
        architecture: of :func:`architecture_of`; None: it is whole.
    """
    options = conf.get("frontend_conf") or {}
    if options.get("upstream") != UPSTREAM:
        return dict(conf)
    from espnet_prune.families.ssl.configs import sized_config

    upstream = model.frontend.upstream.upstream
    config = upstream.model.config
    if architecture is not None:
        config = sized_config(config, architecture)
    told = {"config": config, "preprocessor": upstream.extractor}
    read = {name: json.loads(part.to_json_string()) for name, part in told.items()}
    rest = {name: value for name, value in options.items() if name != "path_or_url"}
    return {**conf, "frontend_conf": rest | {"extra_conf": read}}


def translated(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The function lets a recognizer hear by our upstream instead of s3prl's own.

    Args:
        config: of the ASR model; its upstream is one of ``fairseq.UPSTREAMS``.
        state: its weights.

    Returns:
        both of the recognizer that computes the same, with nothing to download.

    Raises:
        OptionError: its encoder is none of those that s3prl has under that name.
    """
    from espnet_prune.families.ssl import fairseq

    conf = dict(config["frontend_conf"])
    conf.pop("download_dir", None)
    options = dict(conf["frontend_conf"])
    own = {k.removeprefix(INSIDE): v for k, v in state.items() if k.startswith(INSIDE)}
    encoder = fairseq.translate(own, fairseq.UPSTREAMS[options["upstream"]])
    told = {"config": encoder.config, "preprocessor": encoder.preprocessor}
    options.pop("path_or_url", None)
    conf["frontend_conf"] = options | {"upstream": UPSTREAM, "extra_conf": told}
    weights = {INSIDE + name: tensor for name, tensor in encoder.weights.items()}
    rest = {name: t for name, t in state.items() if not name.startswith(INSIDE)}
    return {**config, "frontend_conf": conf}, rest | weights

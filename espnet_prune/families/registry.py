"""The kinds of encoders that can be pruned, what each can do, and who describes it.

A new kind is a row here, a description, and its tests. What a kind cannot do is refused
in one place, :func:`require`, before any training starts.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet import rules
from espnet_prune.families.espnet.rules import Rules

PREFIX = "prunable_"  # of all names of encoders and decoders that are ours

# What only some kinds can do -> how a refusal puts it, and the mend.
CAPABILITIES = {
    "model_dim": ("its model dimension cannot be pruned", "gates: model_dim: false"),
    "runtime": ("onnxruntime does not run it", "leave out int8 and latency"),
    "small": ("there is no small one to train from scratch", "another --method"),
    "untaught": ("without labels it follows the dense one", "another --method"),
    "sizes": ("its sizes are trained one by one", "another --method"),
    "decoder": ("it has no decoder to be pruned", "prune_decoder: false"),
    "frontend": ("it has no frontend to be pruned", "prune_frontend: false"),
    "beyond": ("it is the whole model", "leave denominator and macs_tokens out"),
    "outputs": ("it has states, and no outputs", "distill: output_weight: 0"),
    "heard": ("nothing goes of it without a training", "another --method"),
}
# Option of an encoder -> what one that has it cannot do, whatever its kind can. A small
# one may lack the blocks that the option names; conditioning writes to every channel,
# and the graph has none.
TAKES = {
    "interctc_layer_idx": {"small"},
    "interctc_use_conditioning": {"model_dim", "runtime", "sizes"},
}


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of encoder.

    Args:
        name: of the encoder in its owner's configs.
        rules: which of its options are supported, of ESPnet's.
        groups: what can be given a target of its own.
        can: those of :data:`CAPABILITIES` that it has.
        lost: those that it has not for an option of the encoder at hand, by which.
    """

    name: str
    rules: Rules | None
    groups: frozenset[str]
    can: frozenset[str] = frozenset()
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def compact(self) -> str:
        """Name a compact encoder of this kind in its owner's configs."""
        return PREFIX + self.name

    @property
    def describe(self) -> Callable[..., Any]:
        """Import the function that declares what can go of an encoder of this kind."""
        module = f"espnet_prune.families.espnet.{self.name}"
        return importlib.import_module(module).describe


_OF_ESPNET = frozenset(CAPABILITIES) - {"model_dim", "small"}
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "conformer",
            rules.CONFORMER,
            frozenset({"subsampling", "attention", "ffn", "convolution"}),
            frozenset(CAPABILITIES),
        ),
        Kind(
            "transformer",
            rules.TRANSFORMER,
            frozenset({"subsampling", "attention", "ffn"}),
            _OF_ESPNET,
        ),
        Kind(
            "e_branchformer",
            rules.E_BRANCHFORMER,
            frozenset({"subsampling", "attention", "ffn", "cgmlp"}),
            _OF_ESPNET,
        ),
        Kind(
            "branchformer",
            rules.BRANCHFORMER,
            frozenset({"subsampling", "attention", "cgmlp"}),
            _OF_ESPNET,
        ),
        Kind(
            "contextual_block_conformer",
            rules.CONTEXTUAL_BLOCK_CONFORMER,
            frozenset({"subsampling", "attention", "ffn", "convolution"}),
            _OF_ESPNET - {"runtime", "heard"},
        ),
        Kind(
            "contextual_block_transformer",
            rules.CONTEXTUAL_BLOCK_TRANSFORMER,
            frozenset({"subsampling", "attention", "ffn"}),
            _OF_ESPNET - {"runtime", "heard"},
        ),
    )
}
UPSTREAM = "espnet_prune"  # what s3prl knows the following as
# HuBERT, WavLM, wav2vec 2.0: described in families/ssl, as transformers has them.
SPEECH = Kind(
    "self-supervised",
    None,
    frozenset({"convolution", "positions", "attention", "ffn"}),
    frozenset({"runtime", "small"}),
)


def find_kind(name: str | None) -> Kind | None:
    """Find the kind of an encoder, dense or compact, by its name in a config."""
    return KINDS.get(str(name).removeprefix(PREFIX))


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """Find the kind of a model's encoder; its options may take from what it can.

    Args:
        config: of the model, or of its training to come.
    """
    kind, options = find_kind(config.get("encoder")), config.get("encoder_conf") or {}
    if kind is None:
        return None
    given = {option: TAKES[option] for option in TAKES if options.get(option)}
    lost = {name: option for option in given for name in given[option] & kind.can}
    return replace(kind, can=kind.can - lost.keys(), lost=lost) if lost else kind


def require(kind: Kind | None, capability: str, where: object) -> None:
    """Refuse what a kind of encoder cannot do.

    Args:
        kind: of encoder; None for one that is none of ours, which can do nothing.
        capability: of :data:`CAPABILITIES`.
        where: the file or option to name.

    Raises:
        InputError: it cannot.
    """
    if kind is None or capability not in kind.can:
        what, mend = CAPABILITIES[capability]
        name = "of this kind" if kind is None else repr(kind.name)
        if kind is not None and capability in kind.lost:
            name += f" with {kind.lost[capability]}"
        raise InputError(where, f"an encoder {name} cannot be used so: {what}", mend)

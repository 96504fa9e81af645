"""Read, describe and cut self-supervised speech models as their owners have them."""

import copy
import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel

from espnet_prune.base.errors import InputError
from espnet_prune.config.sections import GateOptions
from espnet_prune.families.described import Described, check_finite
from espnet_prune.families.parts import under
from espnet_prune.families.ssl.configs import CLASSES, PRUNED, read_config, sized_config
from espnet_prune.families.ssl.describe import PRETRAINING, describe
from espnet_prune.families.ssl.pruned_speech import plain_positions
from espnet_prune.pruning.cost import Terms, price_terms
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.slicing import kept_sizes

# What never goes, with a price of its own -> the group that it is counted with.
STAYING = {"projection.module": "ffn"}


def read(path: str | Path) -> PreTrainedModel:
    """Read the model of a Hugging Face directory, dense or compact, in evaluation mode.

    A head that a fine-tuned model has is left out (the export brings it back). The
    positional convolution gets a plain weight for its normed one, and what only
    pre-training needs is switched off.

    Args:
        path: with ``config.json`` and weights (safetensors or ``.bin``).

    Raises:
        InputError: it cannot be read, or is of a kind that cannot be pruned, by name.
    """
    config = read_config(path)
    kind = config.model_type.removeprefix(PRUNED)
    cls = CLASSES[kind][config.model_type.startswith(PRUNED)]
    try:
        model, told = cls.from_pretrained(
            path, output_loading_info=True, dtype=torch.float32
        )
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        SafetensorError,
        UnpicklingError,
    ) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        mend = "copy them again; of a git clone, git lfs pull gets them"
        raise InputError(path, f"its weights cannot be read: {reason}", mend) from e
    missing = set(told["missing_keys"]) - {"masked_spec_embed"}
    if missing:
        raise InputError(
            path,
            f"lacks {len(missing)} tensors, {min(missing)} among them",
            "give the directory of a whole model",
        )
    state = {k: v for k, v in model.state_dict().items() if k != "masked_spec_embed"}
    check_finite(state, path)
    logging.info(f"{path}: {config.model_type}, {model.num_parameters() / 1e6:.2f} M")
    settle(model)
    return model.eval()


def layer_states(model: nn.Module, audio: Tensor, **options: Any) -> list[Tensor]:
    """Return what goes into the blocks, and all their states, (batch, time, channel).

    The last is what the model gives: with norms in front of the blocks transformers has
    another one there, before the norm behind them.

    Args:
        model: of transformers, dense or compact.
        audio: (batch, sample) as the preprocessor gives it.
        options: of the model.
    """
    found = model(audio, output_hidden_states=True, **options)
    return [*found.hidden_states[:-1], found.last_hidden_state]


def read_head(path: str | Path) -> nn.Linear:
    """Read the CTC head of a fine-tuned model, (..., channel) -> (..., token).

    Raises:
        InputError: it has none.
    """
    config = AutoConfig.from_pretrained(path)
    if not (config.architectures or [""])[0].endswith("ForCTC"):
        mend = "give a fine-tuned one, or no transcripts"
        raise InputError(path, "has no CTC head, which labels need", mend)
    return AutoModelForCTC.from_pretrained(path, dtype=torch.float32).lm_head


def settle(model: PreTrainedModel) -> None:
    """Make a model a fixed function of its input also in training mode, but for its
    dropout: no LayerDrop, no masks."""
    plain_positions(model)
    # The parts of a compact model have configs of their own.
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for config in configs.values():
        config.layerdrop, config.apply_spec_augment = 0.0, False
    if hasattr(model, "masked_spec_embed"):
        model.masked_spec_embed.requires_grad_(False)


class DescribedSpeech(Described):
    """A self-supervised encoder that has been prepared for gates."""

    @property
    def products(self) -> dict[str, tuple[str, str]]:
        """Map each filter to the structures of the two convolutions it connects."""
        names = [s.name for s in self.layout.structures if s.group == "convolution"]
        return {
            f"convolution.{i + 1}.filter": pair
            for i, pair in enumerate(pairwise(names))
        }

    @property
    def things(self) -> tuple[str, ...]:
        """Name the things with a price of which no structure is made."""
        return *self.products, *STAYING

    def priced(self, prices: Mapping[str, float]) -> Terms:
        """Give the cost by measured prices, in seconds."""
        return price_terms(self.layout, prices, self.products, STAYING)

    def terms(
        self, clocks: Mapping[str, float], prices: Mapping[str, float] | None = None
    ) -> dict[str, Terms]:
        """Give the cost in parameters, in MACs and, with prices, in seconds."""
        found = self.counts(clocks)
        return found if prices is None else found | {"latency": self.priced(prices)}


def prepare(
    model: PreTrainedModel, options: GateOptions, prefix: str = ""
) -> DescribedSpeech:
    """Describe a model, and prepare it for gates: its function stays the same.

    Args:
        model: the dense one.
        options: what has gates, and how they are made.
        prefix: of its tensors' names in a student.
    """
    about, holder = describe(model, options, prefix=prefix), under(model, prefix)
    about.prepare(holder)
    names = (name for name, _ in holder.named_parameters())
    names = tuple(name for name in names if not name.endswith(PRETRAINING))
    return DescribedSpeech(about, about.layout(holder), names)


def architecture_of(layout: Layout, own: Tensor) -> dict[str, Any]:
    """Return the sizes of what is left, as plain data (:mod:`pruned_speech`).

    Args:
        layout: of the gated model.
        own: (unit,) final values, settled.
    """
    reached = layout.effective(own)
    found: dict[str, Any] = {"convolution": [], "positions": [], "blocks": []}
    for (section, position, *size), number in kept_sizes(layout, own).items():
        if section == "convolution":
            found[section].append(number)
            continue
        if position == len(found[section]):
            found[section].append({})
        found[section][position][size[0]] = number
    for structure in layout.structures:
        if any(slot.tensor.endswith("gru_rel_pos_const") for slot in structure.cut):
            position = int(structure.name.split("layers.")[1].split(".")[0])
            index = reached[layout.span(structure.name)].nonzero().flatten().tolist()
            found["blocks"][position]["head_index"] = index
    groups, *ends, core = (s for s in layout.structures if "pos_conv_embed" in s.name)
    found["positions"] = own[layout.span(groups.name)].nonzero().flatten().tolist()
    taps = [
        layout.entries(structure, slot)[own[layout.span(structure.name)] != 0]
        for structure in (*ends, core)
        for slot in structure.cut
    ]
    taps = torch.cat([entries.flatten() for entries in taps])
    found["taps"] = [int(taps.min()), int(taps.max()) + 1]
    return found


def build(model: PreTrainedModel, architecture: Mapping[str, Any]) -> PreTrainedModel:
    """Build the compact model of these sizes, with weights that are to be loaded.

    Args:
        model: the dense one.
        architecture: of :func:`architecture_of`.
    """
    config = sized_config(model.config, architecture)
    return CLASSES[config.model_type.removeprefix(PRUNED)][1](config)


def shortened(model: PreTrainedModel, blocks: int) -> PreTrainedModel:
    """The function returns the same network with its first blocks alone, untrained."""
    stock, _ = CLASSES[model.config.model_type]
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = blocks
    short = stock(config)
    settle(short)
    return short.eval()


def untrained(model: PreTrainedModel) -> PreTrainedModel:
    """The function returns the same dense network with weights that nothing trained."""
    torch.manual_seed(0)
    stock, _ = CLASSES[model.config.model_type]
    fresh = stock(copy.deepcopy(model.config))
    settle(fresh)
    return fresh.eval()

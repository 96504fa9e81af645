"""Read and make the configs of self-supervised models, and their models by them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    HubertModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Model,
    WavLMModel,
)
from transformers.utils import logging as of_transformers

from espnet_prune.base.errors import InputError
from espnet_prune.families.ssl.pruned_speech import (
    PrunedHubertModel,
    PrunedWav2Vec2Model,
    PrunedWavLMModel,
    register,
)

# ``model_type`` of a config -> the model without heads, and what a pruned one is.
CLASSES: dict[str, tuple[type[PreTrainedModel], type[PreTrainedModel]]] = {
    "hubert": (HubertModel, PrunedHubertModel),
    "wav2vec2": (Wav2Vec2Model, PrunedWav2Vec2Model),
    "wavlm": (WavLMModel, PrunedWavLMModel),
}
PRUNED = "pruned_"  # before the ``model_type`` of a compact one
# Options of a config that the descriptions do not hold for -> why.
UNSUPPORTED = {
    "add_adapter": "an adapter behind the encoder",
    "adapter_attn_dim": "adapters in the blocks",
    "conv_pos_batch_norm": "a BatchNorm behind the positional convolution",
}


def read_config(path: str | Path) -> PreTrainedConfig:
    """Read the config of a Hugging Face directory, of a dense model or a compact one.

    Raises:
        InputError: it cannot be read, or is of a kind that cannot be pruned, by name.
    """
    if not (Path(path) / "config.json").is_file():
        raise InputError(path, "holds no config.json", "give a Hugging Face directory")
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    register()
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise InputError(path, f"is no model of transformers: {reason}") from e
    kind = config.model_type.removeprefix(PRUNED)
    if kind not in CLASSES:
        raise InputError(
            path,
            f"a model of type {config.model_type!r} cannot be pruned",
            f"give one of {', '.join(CLASSES)}",
        )
    for option, why in UNSUPPORTED.items():
        if getattr(config, option, None):
            raise InputError(path, f"{why} ({option}) cannot be pruned")
    return config


def sized_config(
    dense: PreTrainedConfig, architecture: Mapping[str, Any]
) -> PreTrainedConfig:
    """Make the config of the compact model of these sizes.

    Args:
        dense: the config of the dense model.
        architecture: of :func:`architecture_of`.
    """
    _, pruned = CLASSES[dense.model_type]
    options = dense.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "dtype"):
        options.pop(name, None)
    return pruned.config_class(architecture=dict(architecture), **options)


def from_config(options: Mapping[str, Any]) -> PreTrainedModel:
    """Build a dense or compact model, with weights that are to be loaded.

    Args:
        options: what its ``config.json`` holds, or would hold.
    """
    kind = options["model_type"]
    cls = CLASSES[kind.removeprefix(PRUNED)][kind.startswith(PRUNED)]
    rest = {name: value for name, value in options.items() if name != "model_type"}
    return cls(cls.config_class(**rest))

"""Translate encoders that are named as fairseq does, as in s3prl, for transformers.

Of an encoder's options its weights tell all but the number of heads, whether norms
stand in front of the blocks, and whether audio is normalized. Of the published ones
that s3prl knows by a name, the first follows from the width; the others go with norms
in all layers of the feature extractor.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from espnet_prune.base.errors import OptionError
from espnet_prune.families.ssl.configs import CLASSES
from espnet_prune.families.ssl.pruned_speech import plain_positions

# s3prl's name of a published encoder -> its kind (``model_type`` of transformers).
UPSTREAMS = {
    name: kind
    for kind, names in {
        "hubert": (
            "hubert", "hubert_base", "hubert_large_ll60k", "hubert_base_robust_mgr",
            "mhubert_base_vp_en_es_fr_it3",
        ),
        "wav2vec2": (
            "wav2vec2", "wav2vec2_base_960", "wav2vec2_large_960",
            "wav2vec2_large_ll60k", "wav2vec2_large_lv60_cv_swbd_fsh",
            "wav2vec2_large_voxpopuli_100k", "xlsr_53", "xls_r_300m", "xls_r_1b",
            "xls_r_2b",
        ),
        "wavlm": ("wavlm", "wavlm_base", "wavlm_base_plus", "wavlm_large"),
    }.items()
    for name in names
}  # fmt: skip
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # by width
KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
MAX_DISTANCE = 800  # of WavLM's relative positions
VARIANCE_FLOOR = 1e-5  # of torch's layer norm, by which s3prl normalizes audio

# What is used by pre-training alone.
LEFT_OUT = re.compile(
    r"(final_proj|target_glu|quantizer|project_q|input_quantizer|project_inp)\."
    r"|label_embs_concat$"
)
POSITIONS = "encoder.pos_conv.0."
LAYER = r"(encoder\.layers\.\d+\.)"
RENAMED = {
    re.compile(old): new
    for old, new in {
        r"(feature_extractor\.conv_layers\.\d+\.)0\.": r"\1conv.",
        r"(feature_extractor\.conv_layers\.\d+\.)2\.(1\.)?": r"\1layer_norm.",
        r"layer_norm\.": "feature_projection.layer_norm.",
        r"post_extract_proj\.": "feature_projection.projection.",
        r"mask_emb$": "masked_spec_embed",
        re.escape(POSITIONS): "encoder.pos_conv_embed.conv.",
        LAYER + r"self_attn\.grep_linear\.": r"\1attention.gru_rel_pos_linear.",
        LAYER + r"self_attn\.grep_a$": r"\1attention.gru_rel_pos_const",
        LAYER + r"self_attn\.relative_attention_bias\.": r"\1attention.rel_attn_embed.",
        LAYER + r"self_attn\.": r"\1attention.",
        LAYER + r"self_attn_layer_norm\.": r"\1layer_norm.",
        LAYER + r"fc1\.": r"\1feed_forward.intermediate_dense.",
        LAYER + r"fc2\.": r"\1feed_forward.output_dense.",
    }.items()
}


@dataclass(frozen=True)
class Translation:
    """An encoder as transformers has it.

    Args:
        config, preprocessor: what the files of a directory of it would hold.
        weights: its tensors by name; that of the positional convolution is plain, as
            :func:`espnet_prune.families.ssl.model.settle` leaves it.
    """

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    weights: dict[str, Tensor]


def translate(state: Mapping[str, Tensor], kind: str) -> Translation:
    """Translate an encoder.

    Args:
        state: its weights, as s3prl has them.
        kind: a value of :data:`UPSTREAMS`.

    Raises:
        OptionError: its sizes, or its parts, are those of no published encoder.
    """
    try:
        config, weights = _config(state, kind), _renamed(state)
    except KeyError as e:
        raise OptionError(f"its encoder has no {e.args[0]}") from e
    with torch.device("meta"):
        model = CLASSES[kind][0](config)
    plain_positions(model)
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()
        raise OptionError(f"its encoder is no {kind} of s3prl's: {reason}") from e
    preprocessor = {
        "do_normalize": config.do_stable_layer_norm,
        "variance_floor": VARIANCE_FLOOR,
    }
    return Translation(json.loads(config.to_json_string()), preprocessor, weights)


def _config(state: Mapping[str, Tensor], kind: str) -> PreTrainedConfig:
    """Make the config of an encoder by its weights."""
    found = re.compile(r"feature_extractor\.conv_layers\.(\d+)\.0\.weight")
    filters = [state[name] for name in sorted(filter(found.fullmatch, state))]
    layers = {re.match(LAYER, name)[1] for name in state if re.match(LAYER, name)}
    positions = state[f"{POSITIONS}weight_v"]
    width = len(positions)
    if (kernels := [x.shape[2] for x in filters]) != KERNELS:
        raise OptionError(f"its encoder has convolutions of {kernels} taps")
    if width not in HEADS:
        raise OptionError(f"its encoder has the width {width}")
    # Norms are everywhere, or a group norm behind the first convolution.
    large = "feature_extractor.conv_layers.1.2.1.weight" in state
    first = "encoder.layers.0."
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": HEADS[width],
        "intermediate_size": len(state[f"{first}fc1.weight"]),
        "conv_dim": [len(x) for x in filters],
        "conv_kernel": KERNELS,
        "conv_stride": STRIDES,
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in state,
        "feat_extract_norm": "layer" if large else "group",
        "do_stable_layer_norm": large,
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": width // positions.shape[1],
        "activation_dropout": 0.0,  # as in fairseq; the others are alike
    }
    if kind == "wavlm":
        biases = state[f"{first}self_attn.relative_attention_bias.weight"]
        sizes |= {"num_buckets": len(biases), "max_bucket_distance": MAX_DISTANCE}
    return CLASSES[kind][0].config_class(**sizes)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {k: v for k, v in state.items() if not LEFT_OUT.match(k)}
    scale, direction = (found.pop(f"{POSITIONS}weight_{part}") for part in "gv")
    found[f"{POSITIONS}weight"] = torch._weight_norm(direction, scale, dim=2)
    return {_new_name(name): tensor for name, tensor in found.items()}


def _new_name(name: str) -> str:
    for old, new in RENAMED.items():
        if old.match(name):
            return old.sub(new, name, count=1)
    return name

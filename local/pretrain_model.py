"""A small HuBERT with the heads that its pre-training needs."""

import math

import numpy as np
import torch
from pretrain_targets import MELS
from torch import nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel

_MASK_FRAMES = 10
_MASK_STARTS = 0.08  # share of the frames at which a masked stretch begins
WEIGHTS = {"cluster": 1.0, "mel": 2.0, "masked_mel": 0.5}


def make_config(width: int, layers: int, heads: int) -> HubertConfig:
    """The function returns the configuration of a small HuBERT in Base's order.

    Loaded in training mode the model masks and drops nothing by itself.
    """
    none = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop",
         "feat_proj_dropout", "final_dropout"),
        0.0,
    )  # fmt: skip
    return HubertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        conv_dim=[64, 64, 96, 96, 128, 128, 128],
        feat_extract_norm="group",
        num_conv_pos_embeddings=64,
        num_conv_pos_embedding_groups=16,
        apply_spec_augment=False,
        **none,
    )


def make_model(config: HubertConfig) -> HubertModel:
    """The function returns a new model, its positional convolution as fairseq's.

    transformers means to do so too, but its write to a weight-normed weight is lost.
    """
    model = HubertModel(config)
    conv = model.encoder.pos_conv_embed.conv
    std = math.sqrt(4 / (conv.kernel_size[0] * config.hidden_size))
    conv.weight = torch.randn_like(conv.weight) * std
    nn.init.zeros_(conv.bias)
    return model


def draw_mask(crops: int, frames: int, seed: list[int]) -> torch.Tensor:
    """The function returns which frames are hidden from the encoder, bool (B, T)."""
    rng = np.random.default_rng([*seed, 2])
    starts = max(1, round(_MASK_STARTS * frames))
    mask_BT = torch.zeros(crops, frames, dtype=torch.bool)
    for row_T in mask_BT:
        for place in rng.permutation(frames - _MASK_FRAMES + 1)[:starts]:
            row_T[place : place + _MASK_FRAMES] = True
    return mask_BT


class Pretraining(nn.Module):
    """The class holds the model and the heads that only the training has.

    Args:
        hubert: the model to train.
        clusters: number of classes of the masked prediction.
    """

    def __init__(self, hubert: HubertModel, clusters: int):
        super().__init__()
        width = hubert.config.hidden_size
        self.hubert = hubert
        self.cluster = nn.Linear(width, clusters)
        self.mel = nn.Linear(width, MELS)
        self.masked_mel = nn.Linear(width, MELS)

    def forward(
        self,
        noisy_BN: torch.Tensor,
        mel_BTF: torch.Tensor,
        labels_BT: torch.Tensor,
        mask_BT: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The method returns the losses by name, and the masked accuracy.

        Args:
            noisy_BN: what the model hears.
            mel_BTF: log-mel features to regress, of mean 0 and variance 1.
            labels_BT: cluster of each frame.
            mask_BT: frames that the encoder does not see.
        """
        features_BTC = self.hubert.feature_extractor(noisy_BN).mT
        seen_BTD = self.hubert.feature_projection(features_BTC)
        hidden = self.hubert.masked_spec_embed.to(seen_BTD.dtype)
        masked_BTD = torch.where(mask_BT[..., None], hidden, seen_BTD)
        out_MD = self.hubert.encoder(masked_BTD).last_hidden_state[mask_BT]
        logits_MK, labels_M = self.cluster(out_MD).float(), labels_BT[mask_BT]
        masked_mel_MF = self.masked_mel(out_MD).float()
        return {
            "cluster": functional.cross_entropy(logits_MK, labels_M),
            "mel": functional.l1_loss(self.mel(seen_BTD).float(), mel_BTF),
            "masked_mel": functional.l1_loss(masked_mel_MF, mel_BTF[mask_BT]),
            "accuracy": (logits_MK.argmax(-1) == labels_M).float().mean(),
        }

"""An upstream for s3prl: compact models, and dense ones, as ``espnet_prune``.

    import espnet_prune
    from s3prl.nn import S3PRLUpstream

    S3PRLUpstream("espnet_prune", path_or_url="exp/hubert_compact_params50_distilled")

s3prl's own upstreams build the stock models, which cannot hold the sizes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging as of_transformers

from espnet_prune.base.errors import InputError
from espnet_prune.families.registry import UPSTREAM
from espnet_prune.families.ssl.audio import VARIANCE_FLOOR, prepared, read_extractor
from espnet_prune.families.ssl.configs import from_config
from espnet_prune.families.ssl.model import layer_states, settle


class Upstream(nn.Module):
    """An encoder as s3prl wants it.

    Args:
        path: Hugging Face directory of a compact or dense model, with its preprocessor.
        config, preprocessor: what its files of that name hold, where a config of ESPnet
            has them instead of a path: the weights are in ESPnet's file then.
        options: of s3prl; none counts here.

    Raises:
        InputError: there is neither a path nor a config.
    """

    def __init__(
        self,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__()
        if config is not None:
            self.extractor = Wav2Vec2FeatureExtractor.from_dict(preprocessor or {})
            self.model = from_config(config)
        elif path is not None:
            of_transformers.disable_progress_bar()
            self.extractor = read_extractor(path)
            self.model = AutoModel.from_pretrained(path)
        else:
            mend = "give the directory of a model"
            raise InputError(f"upstream {UPSTREAM}", "lacks path_or_url", mend)
        # What :mod:`espnet_prune.families.ssl.fairseq` translates has its own.
        self.variance_floor = getattr(self.extractor, "variance_floor", VARIANCE_FLOOR)
        settle(self.model)  # no LayerDrop, no masks of SpecAugment

    def train(self, mode: bool = True) -> "Upstream":
        """The method keeps a frozen model in evaluation mode: ESPnet's trainer would
        give it dropout."""
        learns = any(parameter.requires_grad for parameter in self.parameters())
        return super().train(mode and learns)

    def get_downsample_rates(self, key: str = "") -> int:
        """Return the samples per frame."""
        return int(torch.tensor(self.model.config.conv_stride).prod())

    def forward(self, wavs: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Encode (sample,) of each utterance at 16 kHz.

        ``hidden_states`` are (batch, time, channel) of each layer, as the probes have
        them. A model with a group norm, which sees padding, encodes one by one: an
        utterance is the same in every batch.
        """
        alone = self.model.config.feat_extract_norm == "group"
        parts = [[wav] for wav in wavs] if alone else [wavs]
        layers = zip(*map(self._encode, parts), strict=True)
        states = tuple(
            pad_sequence([x for part in layer for x in part], batch_first=True)
            for layer in layers
        )
        return {"hidden_states": states}

    def _encode(self, wavs: list[Tensor]) -> list[Tensor]:
        """Encode a batch: (batch, time, channel) of each layer."""
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        padded = pad_sequence([wav.detach() for wav in wavs], batch_first=True)
        audio = prepared(
            padded, self.extractor.do_normalize, lengths, self.variance_floor
        ).to(next(self.parameters()).dtype)
        mask = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        return layer_states(self.model, audio, attention_mask=mask.long())


def upstream(ckpt: str | None = None, *args: Any, **options: Any) -> Upstream:
    """Make the upstream: the entry that ``s3prl.hub`` gets."""
    return Upstream(ckpt, **options)

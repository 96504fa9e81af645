"""An upstream for s3prl: compact models, and dense ones, as ``espnet_prune``.

    import espnet_prune
    from s3prl.nn import S3PRLUpstream

    S3PRLUpstream("espnet_prune", path_or_url="exp/hubert_compact_params50_distilled")

s3prl's own upstreams build the stock models, which cannot hold the sizes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2FeatureExtractor

from espnet_prune.families.ssl.audio import RATE
from espnet_prune.families.ssl.model import settle

NAME = "espnet_prune"


class Upstream(nn.Module):
    """An encoder as s3prl wants it.

    Args:
        path: Hugging Face directory of a compact or dense model, with its preprocessor.
        options: of s3prl; none counts here.
    """

    def __init__(self, path: str, **options: Any):
        super().__init__()
        if (Path(path) / "preprocessor_config.json").is_file():
            self.extractor = AutoFeatureExtractor.from_pretrained(path)
        else:
            self.extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
        self.model = AutoModel.from_pretrained(path)
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

        ``hidden_states`` are (batch, time, channel) of each layer.
        """
        given = self.extractor(
            [wav.detach().cpu().numpy() for wav in wavs],
            return_tensors="pt",
            padding=True,
            return_attention_mask=True,
            sampling_rate=RATE,
        ).to(wavs[0].device)
        return {"hidden_states": self.model(**given, output_hidden_states=True)[-1]}


def upstream(ckpt: str, *args: Any, **options: Any) -> Upstream:
    """Make the upstream: the entry that ``s3prl.hub`` gets."""
    return Upstream(ckpt, **options)

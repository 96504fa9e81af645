"""The layers of ESPnet's that live elsewhere from one version to the next."""

from importlib import import_module
from importlib.util import find_spec

# Up to 202511, and since.
_HOME = "espnet2.legacy.nets" if find_spec("espnet2.legacy") else "espnet.nets"
_attention, _convolution, _embedding, _subsampling, _streaming, _search = (
    import_module(f"{_HOME}.{name}")
    for name in (
        "pytorch_backend.transformer.attention",
        "pytorch_backend.conformer.convolution",
        "pytorch_backend.transformer.embedding",
        "pytorch_backend.transformer.subsampling",
        "pytorch_backend.transformer.subsampling_without_posenc",
        "beam_search",
    )
)
LegacyRelPositionMultiHeadedAttention = _attention.LegacyRelPositionMultiHeadedAttention
MultiHeadedAttention = _attention.MultiHeadedAttention
RelPositionMultiHeadedAttention = _attention.RelPositionMultiHeadedAttention
ConvolutionModule = _convolution.ConvolutionModule
LegacyRelPositionalEncoding = _embedding.LegacyRelPositionalEncoding
PositionalEncoding = _embedding.PositionalEncoding
RelPositionalEncoding = _embedding.RelPositionalEncoding
TooShortUttError = _subsampling.TooShortUttError
StreamingSubsampling = _streaming.Conv2dSubsamplingWOPosEnc
Hypothesis = _search.Hypothesis

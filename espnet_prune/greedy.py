"""CTC greedy decoding of many utterances at once, without a search.

Graves et al. 2006 (ICML), section 3.2.1, best path decoding: the best label of each
frame, repeats collapsed, blanks dropped.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_prune.errors import InputError
from espnet_prune.layers.subsampling import Subsampling
from espnet_prune.serving import InferenceEncoder


def collapse(best: Tensor, blank: int) -> list[int]:
    """Token ids of a path of labels, (time,)."""
    tokens = torch.unique_consecutive(best)
    return tokens[tokens != blank].tolist()


class GreedyDecoder:
    """Decodes in batches; what shares a batch does not matter (but for the
    rounding of bf16 and int8).

    Args:
        model: an ESPnet model; with an :class:`InferenceEncoder` utterances are encoded
            together, with another one by one.

    Raises:
        InputError: the model has no CTC head.
    """

    def __init__(self, model: ESPnetASRModel):
        if model.ctc is None:
            raise InputError("model", "has no CTC head", "decode it with a search")
        self.model = model.eval()
        self.device = next(model.ctc.parameters()).device

    @torch.no_grad()
    def __call__(self, speech: Sequence[Tensor]) -> list[tuple[list[int], float]]:
        """Decode a batch.

        Args:
            speech: audio (sample,) of each utterance, in [-1, 1].

        Returns:
            token ids and log probability of the best path, for each.
        """
        # One by one: the last window of a padded utterance would see the padding.
        features = [self._features(audio.to(self.device)) for audio in speech]
        lengths = torch.tensor([len(x) for x in features], device=self.device)
        if int(lengths.max()) < Subsampling.MIN_FRAMES:
            return [([], 0.0) for _ in speech]  # too short to be heard
        encoded, frames = self._encode(features, lengths)
        scores, best = self.model.ctc.log_softmax(encoded).max(-1)
        return [
            (collapse(b[:n], self.model.blank_id), float(s[:n].sum()))
            for b, s, n in zip(best, scores, frames.tolist(), strict=True)
        ]

    def _encode(self, features: list[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each -> (batch, time, channel), padded, and lengths (batch,)."""
        encoder = self.model.encoder
        if isinstance(encoder, InferenceEncoder):
            padded = pad_sequence(features, batch_first=True)
            return encoder.fast(padded, lengths, apart=True)[:2]
        long_enough = [len(x) >= Subsampling.MIN_FRAMES for x in features]
        outputs = [
            encoder(x[None], n[None])[0][0]
            if fits
            else x.new_zeros(0, encoder.output_size())
            for x, n, fits in zip(features, lengths, long_enough, strict=True)
        ]
        frames = torch.tensor([len(x) for x in outputs], device=self.device)
        return pad_sequence(outputs, batch_first=True), frames

    def _features(self, audio: Tensor) -> Tensor:
        """(sample,) -> (frame, feature), normalised."""
        length = torch.tensor([len(audio)], device=self.device)
        features = self.model._extract_feats(audio[None], length)
        if self.model.normalize is not None:
            features = self.model.normalize(*features)
        return features[0][0]


def batches(
    lengths: Iterable[tuple[str, int]], most: int, padding: float = 0.1
) -> Iterator[list[str]]:
    """Group utterances of similar length.

    Args:
        lengths: key and length of each utterance.
        most: total length of a batch, padding included; a longer utterance is alone.
        padding: how much of its length may be added to the shortest one.
    """
    batch: list[str] = []
    shortest = 0
    for key, length in sorted(lengths, key=lambda pair: pair[1]):
        full = length * (len(batch) + 1) > most
        if batch and (full or length > (1 + padding) * shortest):
            yield batch
            batch = []
        shortest = shortest if batch else length
        batch.append(key)
    if batch:
        yield batch

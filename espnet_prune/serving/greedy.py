"""CTC greedy decoding of many utterances at once, without a search.

Graves et al. 2006 (ICML), section 3.2.1, best path decoding: the best label of each
frame, repeats collapsed, blanks dropped.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_prune.base.errors import InputError
from espnet_prune.serving.fast.encoder import MIN_FRAMES
from espnet_prune.serving.inference import InferenceEncoder


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
        self.shortest = first_window(model.frontend)

    @torch.no_grad()
    def __call__(self, speech: Sequence[Tensor]) -> list[tuple[list[int], float]]:
        """Decode a batch.

        Args:
            speech: audio (sample,) of each utterance, in [-1, 1].

        Returns:
            token ids and log probability of the best path, for each; of audio too
            short for the encoder, no ids and 0.
        """
        found: list[tuple[list[int], float]] = [([], 0.0)] * len(speech)
        # One by one: the last window of a padded utterance would see the padding.
        features = {
            index: self._features(audio.to(self.device))
            for index, audio in enumerate(speech)
            if len(audio) >= self.shortest
        }
        heard = [i for i, x in features.items() if len(x) >= MIN_FRAMES]
        if not heard:
            return found
        encoded, frames = self._encode([features[index] for index in heard])
        scores, best = self.model.ctc.log_softmax(encoded).max(-1)
        for index, b, s, n in zip(heard, best, scores, frames.tolist(), strict=True):
            found[index] = collapse(b[:n], self.model.blank_id), float(s[:n].sum())
        return found

    def _encode(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of each -> (batch, time, channel), padded, and lengths (batch,)."""
        encoder = self.model.encoder
        lengths = torch.tensor([len(x) for x in features], device=self.device)
        if isinstance(encoder, InferenceEncoder):
            padded = pad_sequence(features, batch_first=True)
            return encoder.fast(padded, lengths, apart=True)[:2]
        outputs = [
            encoder(x[None], n[None])[0][0]
            for x, n in zip(features, lengths, strict=True)
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


def first_window(frontend: nn.Module | None) -> int:
    """The fewest samples that make a frame: torch's STFT takes no fewer, ESPnet's
    other frontends no empty audio."""
    stft = getattr(frontend, "stft", None)
    if stft is None:
        return 1
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft  # it is reflected


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

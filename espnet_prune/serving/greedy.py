"""CTC greedy decoding, without a search.

Graves et al. 2006 (ICML), section 3.2.1, best path decoding: the best label of each
frame, repeats collapsed, blanks dropped.
"""

from typing import Any

import numpy as np
import torch
from espnet.nets.beam_search import Hypothesis
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor, nn

from espnet_prune.base.errors import InputError


def collapse(best: Tensor, blank: int) -> list[int]:
    """Return the token ids of a path of labels, (time,)."""
    tokens = torch.unique_consecutive(best)
    return tokens[tokens != blank].tolist()


class GreedyDecoder:
    """The decoder decodes one utterance at a time.

    Args:
        model: an ESPnet model.

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
    def __call__(self, speech: Tensor) -> tuple[list[int], float]:
        """Decode audio, (sample,) in [-1, 1].

        Returns:
            token ids, and log probability of the best path; of audio too short for the
            encoder, no ids and 0.
        """
        if len(speech) < self.shortest:
            return [], 0.0
        length = torch.tensor([len(speech)], device=self.device)
        try:
            encoded, _ = self.model.encode(speech[None].to(self.device), length)
        except TooShortUttError:
            return [], 0.0
        if isinstance(encoded, tuple):  # with intermediate CTC
            encoded = encoded[0]
        scores, best = self.model.ctc.log_softmax(encoded)[0].max(-1)
        return collapse(best, self.model.blank_id), float(scores.sum())


class GreedySpeech2Text(Speech2Text):
    """ESPnet's decoder without its search."""

    @torch.no_grad()
    def __call__(self, speech: Tensor | np.ndarray) -> list[tuple[Any, ...]]:
        """Decode audio, (sample,), to text, tokens, their ids, a scored hypothesis.

        They come in a list of one.
        """
        ids, score = GreedyDecoder(self.asr_model)(torch.as_tensor(speech))
        tokens = self.converter.ids2tokens(ids)
        text = self.tokenizer.tokens2text(tokens)
        return [(text, tokens, ids, Hypothesis(torch.tensor(ids), score))]


def first_window(frontend: nn.Module | None) -> int:
    """Count the fewest samples that make a frame.

    torch's STFT takes no fewer, ESPnet's other frontends no empty audio.
    """
    stft = getattr(frontend, "stft", None)
    if stft is None:
        return 1
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft  # it is reflected

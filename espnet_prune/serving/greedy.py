"""CTC greedy decoding, without a search.

Graves et al. 2006 (ICML), section 3.2.1, best path decoding: the best label of each
frame, repeats collapsed, blanks dropped.
"""

import logging
from typing import Any

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.layers import content
from espnet_prune.families.espnet.nets import Hypothesis, TooShortUttError


def collapse(best: Tensor, blank: int) -> list[int]:
    """Return the token ids of a path of labels, (time,)."""
    tokens = torch.unique_consecutive(best)
    return tokens[tokens != blank].tolist()


@torch.no_grad()
def posteriors(model: ESPnetASRModel, speech: Tensor) -> tuple[Tensor, Tensor] | None:
    """Encode audio, (sample,) in [-1, 1], and apply the CTC head.

    Returns:
        (1, time, channel) encoded, and (time, token) log probabilities; None for audio
        too short for the encoder.
    """
    if len(speech) < first_window(model.frontend):
        return None
    device = next(model.ctc.parameters()).device
    length = torch.tensor([len(speech)], device=device)
    try:
        encoded, _ = model.encode(speech[None].to(device), length)
    except TooShortUttError:
        return None
    encoded = content(encoded)
    return encoded, model.ctc.log_softmax(encoded)[0]


def check_ctc(model: ESPnetASRModel) -> None:
    """Refuse a model without a CTC head.

    Raises:
        InputError: the model has none.
    """
    if model.ctc is None:
        raise InputError("model", "has no CTC head", "decode it with ESPnet's search")


class GreedyDecoder:
    """The decoder decodes one utterance at a time.

    Args:
        model: an ESPnet model.

    Raises:
        InputError: the model has no CTC head.
    """

    def __init__(self, model: ESPnetASRModel):
        check_ctc(model)
        self.model = model.eval()

    def __call__(self, speech: Tensor) -> tuple[list[int], float]:
        """Decode audio, (sample,) in [-1, 1].

        Returns:
            token ids, and log probability of the best path; of audio too short for the
            encoder, no ids and 0.
        """
        if (found := posteriors(self.model, speech)) is None:
            return [], 0.0
        scores, best = found[1].max(-1)
        return collapse(best, self.model.blank_id), float(scores.sum())


class GreedySpeech2Text(Speech2Text):
    """ESPnet's decoder without its search.

    Args:
        of_espnet: arguments of ESPnet's.
        ctc_greedy: the option that asks for it.
    """

    def __init__(self, *of_espnet: Any, ctc_greedy: bool = True, **options: Any):
        super().__init__(*of_espnet, **options)

    def __call__(self, speech: Tensor | np.ndarray) -> list[tuple[Any, ...]]:
        """Decode audio, (sample,), to text, tokens, their ids, a scored hypothesis.

        They come in a list of one.
        """
        ids, score = GreedyDecoder(self.asr_model)(torch.as_tensor(speech))
        return results(self, {tuple(ids): score})


def results(
    decoder: Speech2Text, scored: dict[tuple[int, ...], float]
) -> list[tuple[Any, ...]]:
    """Give hypotheses as ESPnet does: text, tokens, their ids, a scored hypothesis.

    Args:
        decoder: which knows how many are wanted (``nbest``).
        scored: token ids -> score; the best come first.
    """
    best = sorted(scored.items(), key=lambda pair: -pair[1])[: decoder.nbest]
    found = []
    for ids, score in best:
        tokens = decoder.converter.ids2tokens(list(ids))
        text = decoder.tokenizer.tokens2text(tokens)
        hypothesis = Hypothesis(torch.tensor(ids), float(score))
        found.append((text, tokens, list(ids), hypothesis))
    logging.info(f"best hypo: {found[0][0]}")  # as ESPnet logs it: progress counts them
    return found


def first_window(frontend: nn.Module | None) -> int:
    """Count the fewest samples that make a frame.

    torch's STFT takes no fewer, ESPnet's other frontends no empty audio.
    """
    stft = getattr(frontend, "stft", None)
    if stft is None:
        return 1
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft  # it is reflected

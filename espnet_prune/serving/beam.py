"""CTC prefix beam search, whose best hypotheses the attention decoder scores anew.

ESPnet's search asks the decoder for every token of every hypothesis in turn, and takes
most of the time of a small model. Here flashlight's search in C++ (Kahn et al. 2022,
arXiv 2201.12465) finds the best prefixes, and the decoder scores all of them at once,
as in the second pass of U2 (Zhang et al. 2020, arXiv 2012.05481). (torchaudio wraps
the same search, but gives an n-gram of tokens to the wrong tokens.)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.config.options import make_options
from espnet_prune.serving.greedy import check_ctc, collapse, posteriors, results


@dataclass(frozen=True)
class BeamOptions:
    """Options of the search, ``ctc_beam`` in a decoding config.

    Args:
        beam_size: prefixes that are kept at each frame.
        beam_threshold: how far below the best one they may be, in log probability.
        ctc_weight: weight of CTC and n-gram in the score of a hypothesis, the attention
            decoder having the rest; 1 leaves the decoder out.
        lm: n-gram of the model's tokens, an ARPA or a binary file of KenLM.
        lm_weight: weight of its log10 probability beside CTC's (natural) one.

    Raises:
        OptionError: an option is outside its range, by name.
    """

    beam_size: int = 10
    beam_threshold: float = 20.0
    ctc_weight: float = 0.5
    lm: str | None = None
    lm_weight: float = 0.3

    def __post_init__(self):
        if self.beam_size < 1:
            raise OptionError("ctc_beam: beam_size must be >= 1")
        if self.beam_threshold <= 0:
            raise OptionError("ctc_beam: beam_threshold must be above 0")
        if not 0 <= self.ctc_weight <= 1:
            raise OptionError("ctc_beam: ctc_weight must be in [0, 1]")


class BeamSpeech2Text(Speech2Text):
    """ESPnet's decoder with this search.

    Args:
        of_espnet: arguments of ESPnet's.
        ctc_beam: keyword arguments of :class:`BeamOptions`; none: the defaults.

    Raises:
        InputError: the model has no CTC head, or flashlight is not installed.
    """

    def __init__(
        self, *of_espnet: Any, ctc_beam: dict[str, Any] | None, **options: Any
    ):
        super().__init__(*of_espnet, **options)
        self.beam = make_options(BeamOptions, "ctc_beam", ctc_beam)
        model = self.asr_model
        check_ctc(model)
        self.search = Search(model.token_list, model.blank_id, self.beam)
        attends = model.decoder is not None and not model.use_transducer_decoder
        self.rescores = attends and self.beam.ctc_weight < 1

    @torch.no_grad()
    def __call__(self, speech: Tensor | np.ndarray) -> list[tuple[Any, ...]]:
        """Decode audio, (sample,), to text, tokens, their ids, a scored hypothesis.

        They come in a list of as many as ESPnet's ``nbest`` says, the best first.
        """
        found = posteriors(self.asr_model, torch.as_tensor(speech))
        if found is None:
            scored = {(): 0.0}
        else:
            encoded, log_probs = found
            scored = self.search(log_probs)
            if self.rescores:
                scored = self.rescored(scored, encoded)
        return results(self, scored)

    def rescored(
        self, scored: dict[tuple[int, ...], float], encoded: Tensor
    ) -> dict[tuple[int, ...], float]:
        """Add what the attention decoder thinks of all hypotheses, in one batch.

        Args:
            scored: token ids -> log probability by CTC and n-gram.
            encoded: (1, time, channel).
        """
        model, device = self.asr_model, encoded.device
        ids = [torch.tensor(tokens, dtype=torch.long) for tokens in scored]
        padded = pad_sequence(ids, batch_first=True, padding_value=model.ignore_id)
        lengths = torch.tensor([len(tokens) for tokens in ids])
        times = torch.full((len(ids),), encoded.shape[1])
        nll = model.nll(
            encoded.expand(len(ids), -1, -1),
            times.to(device),
            padded.to(device),
            lengths.to(device),
        )
        weight = self.beam.ctc_weight
        return {
            tokens: weight * of_ctc - (1 - weight) * of_decoder
            for (tokens, of_ctc), of_decoder in zip(
                scored.items(), nll.tolist(), strict=True
            )
        }


class Search:
    """flashlight's search over the tokens of a model.

    Args:
        tokens: of the model, in order.
        blank: index of CTC's blank.
        options: of the search.

    Raises:
        InputError: flashlight is not installed, or the n-gram cannot be read.
    """

    def __init__(self, tokens: list[str], blank: int, options: BeamOptions):
        try:
            from flashlight.lib.text import decoder
        except ImportError as e:
            what = f"ctc_beam needs flashlight-text ({e})"
            raise InputError("decoding", what, "pip install -r requirements.txt") from e
        self.blank = blank
        # The decoder does not keep it alive.
        self.lm = read_lm(options.lm, tokens) if options.lm else decoder.ZeroLM()
        self.decoder = decoder.LexiconFreeDecoder(
            decoder.LexiconFreeDecoderOptions(
                beam_size=options.beam_size,
                beam_size_token=len(tokens),
                beam_threshold=options.beam_threshold,
                lm_weight=options.lm_weight,
                sil_score=0.0,
                log_add=True,
                criterion_type=decoder.CriterionType.CTC,
            ),
            self.lm, blank, blank, [],
        )  # fmt: skip

    def __call__(self, log_probs: Tensor) -> dict[tuple[int, ...], float]:
        """Find the best of (time, token) log probabilities.

        Returns:
            token ids -> log probability by CTC, and of the n-gram as it is weighted.
        """
        emissions = log_probs.float().cpu().contiguous()
        found: dict[tuple[int, ...], float] = {}
        # A hypothesis comes with and without a blank at its end.
        for path in self.decoder.decode(emissions.data_ptr(), *emissions.shape):
            # A silence stands around the path, and is the blank.
            tokens = tuple(collapse(torch.tensor(path.tokens), self.blank))
            found[tokens] = np.logaddexp(found.get(tokens, -math.inf), path.score)
        return found


def read_lm(path: str, tokens: list[str]) -> Any:
    """Read an n-gram of these tokens, an ARPA or binary file.

    Raises:
        InputError: it is none.
    """
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    try:
        return KenLM(path, Dictionary(list(tokens)))
    except RuntimeError as e:
        what = f"cannot be read ({str(e).splitlines()[-1]})"
        raise InputError(path, what, "give an ARPA or binary file of KenLM") from e

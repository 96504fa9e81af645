"""ESPnet's streaming search, which hears an utterance in parts."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
from torch import Tensor

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml

PART = "sim_chunk_length"


class StreamingSpeech2Text(Speech2TextStreaming):
    """ESPnet's decoder of streaming encoders, given an utterance in parts.

    ESPnet's program gives it parts, too, but loses utterances shorter than one. What an
    utterance took from its last part to its text, in seconds, is added to ``delays``.

    Args:
        asr_train_config: the model's ``config.yaml``.
        of_espnet: further arguments of ESPnet's.
        sim_chunk_length: samples of a part; 0 for the whole utterance.

    Raises:
        InputError: the encoder does not stream, or a part is too short.
    """

    def __init__(
        self,
        asr_train_config: str,
        *of_espnet: Any,
        sim_chunk_length: int,
        **options: Any,
    ):
        check_streaming(asr_train_config, read_yaml(asr_train_config), sim_chunk_length)
        super().__init__(asr_train_config, *of_espnet, **options)
        if 0 < sim_chunk_length <= self.win_length:  # ESPnet would lose frames
            raise InputError(
                PART,
                f"{sim_chunk_length} samples are no more than a window of the frontend",
                f"give more than {self.win_length}, or 0 for whole utterances",
            )
        self.part = sim_chunk_length
        self.delays: list[float] = []

    def __call__(self, speech: Tensor | np.ndarray) -> list[tuple[Any, ...]]:
        """Decode audio, (sample,), to text, tokens, their ids, a scored hypothesis.

        They come in a list, the best first; an empty one where the search finds none.

        Raises:
            TooShortUttError: the audio is too short for the encoder.
        """
        *parts, last = torch.as_tensor(speech).split(self.part or len(speech))
        before = logging.root.manager.disable
        logging.disable(logging.INFO)  # it tells the best hypothesis of every part
        try:
            for part in parts:
                super().__call__(part, is_final=False)
            start = time.perf_counter()
            found = super().__call__(last)
            self.delays.append(time.perf_counter() - start)
        finally:
            self.reset()  # the next utterance begins anew if this one was too short
            logging.disable(before)
        logging.info(f"best hypo: {found[0][0] if found else ''}")  # progress counts
        return found


def check_streaming(source: object, config: Mapping[str, Any], samples: int) -> None:
    """Refuse parts to an encoder that takes none; warn where they change the features.

    Args:
        source: the model's config, for messages.
        config: its content.
        samples: of a part; 0 for whole utterances.

    Raises:
        InputError: its encoder is no streaming one.
    """
    if "contextual_block" not in str(config.get("encoder")):
        what = f"its encoder, {config.get('encoder')!r}, does not stream"
        raise InputError(source, what, f"leave {PART} out of --inference_config")
    if samples and config.get("normalize") == "utterance_mvn":
        logging.warning(f"{source}: utterance_mvn normalizes each part by itself")

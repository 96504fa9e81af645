"""The error of weights on a validation set, by CTC greedy decoding: no search chooses.

It is what fine-tunings of one model are told apart by (``--soup``).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from espnet_prune.base.table import read_table
from espnet_prune.data.text import comparable
from espnet_prune.families.espnet.tasks import ASR
from espnet_prune.measuring.metrics import leading
from espnet_prune.measuring.wer import Pair, score
from espnet_prune.serving.greedy import GreedyDecoder, GreedySpeech2Text


class Validation:
    """A validation set, and the architecture of the models that hear it.

    Args:
        config: the models' ``config.yaml``.
        weights: of one of them.
        audio: as ESPnet's options name it: table, ``speech``, its form.
        text: table of the references.
        device: that computes.

    Raises:
        InputError: the model has no CTC head.
    """

    def __init__(
        self, config: Path, weights: Path, audio: list[str], text: Path, device: str
    ):
        self.decoder = GreedySpeech2Text(str(config), str(weights), device=device)
        self.greedy = GreedyDecoder(self.decoder.asr_model)
        self.audio, self.references = audio, read_table(text)
        self.metric = leading(self.references.values())

    def error(self, state: Mapping[str, Tensor]) -> float:
        """Return the error rate of weights, a fraction.

        Args:
            state: the weights; they must fit strictly.
        """
        self.decoder.asr_model.load_state_dict(state, strict=True)
        args = self.decoder.asr_train_args
        task = ASR.training
        loader = task.build_streaming_iterator(
            [tuple(self.audio)],
            preprocess_fn=task.build_preprocess_fn(args, False),
            collate_fn=task.build_collate_fn(args, False),
            inference=True,
        )
        pairs = []
        for (utt,), batch in loader:
            heard = self.text(batch["speech"][0])
            pairs.append(Pair(utt, comparable(self.references[utt]), comparable(heard)))
        return score(pairs, self.metric.counted).rate

    def text(self, speech: Tensor) -> str:
        """Decode audio, (sample,) in [-1, 1]."""
        ids, _ = self.greedy(torch.as_tensor(speech))
        tokens = self.decoder.converter.ids2tokens(ids)
        return self.decoder.tokenizer.tokens2text(tokens)

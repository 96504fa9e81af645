"""Cut a checkpoint of several sizes to one of them, on loading and while it runs."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import encoder_choices
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.config.rungs import SIZES, WHOLE
from espnet_prune.config.sections import MODEL_DIM, GateOptions
from espnet_prune.families.espnet.checkpoint import encoder_features
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.model import ENCODER
from espnet_prune.families.espnet.tasks import decoded_with
from espnet_prune.families.registry import find_kind
from espnet_prune.pruning.slicing import sliced


class SizedEncoders:
    """The encoders of all sizes, each made when it is asked for the first time.

    Args:
        decoder: ESPnet's, of the whole model.
        checkpoint: its weights, with what the sizes keep in a file beside.
        prepare: makes of the encoder that the decoder has one for inference.

    Raises:
        InputError: that file is missing.
    """

    def __init__(
        self, decoder: Speech2Text, checkpoint: Path, prepare: Callable[[], None]
    ):
        file = checkpoint.parent / SIZES
        if not file.is_file():
            what = "does not exist: the checkpoint has one size"
            raise InputError(file, what, "leave size out, or train with slimmable")
        self.told = torch.load(file, map_location="cpu", weights_only=True)
        self.model, self.args = decoded_with(decoder)
        self.features = encoder_features(self.model, self.args.input_size)
        self.whole, self.prepare = self.model.encoder, prepare
        self.ready: dict[str, nn.Module] = {}

    def use(self, size: str | float) -> None:
        """Give the decoder the encoder of a size.

        Raises:
            InputError: there is no such size.
        """
        with contextlib.suppress(ValueError):
            size = f"{float(size):g}"
        if size != WHOLE and size not in self.told:
            known = ", ".join([WHOLE, *self.told])
            raise InputError(f"size {size}", "is not in it", f"give one of: {known}")
        if size not in self.ready:
            cut = self.whole if size == WHOLE else self._cut(**self.told[size])
            before, self.model.encoder = self.model.encoder, cut
            try:
                self.prepare()
            except Exception:
                self.model.encoder = before
                raise
            self.ready[size] = self.model.encoder
        self.model.encoder = self.ready[size]

    def _cut(self, kept: dict[str, Any], statistics: dict[str, Any]) -> nn.Module:
        whole, kind = self.whole, find_kind(self.args.encoder)
        options = GateOptions(model_dim=MODEL_DIM in kept)
        about = kind.describe(whole, options, gated=False, prefix=ENCODER)
        holder = nn.Module()
        holder.encoder = whole
        layout = about.layout(holder)
        own = torch.cat([kept[s.name] for s in layout.structures]).cpu()
        state = sliced(layout, holder.state_dict() | statistics, own)
        compact = encoder_choices.get_class(kind.compact)(
            self.features,
            **self.args.encoder_conf,
            architecture=architecture_of(layout, own),
        )
        state = {k.removeprefix(ENCODER): v for k, v in state.items()}
        compact.load_state_dict(state, strict=True)
        weight = next(whole.parameters())
        return compact.to(weight.device, weight.dtype).eval()


def resize(decoder: Speech2Text, size: str | float) -> None:
    """Switch a decoder that :func:`~espnet_prune.load` made to another size.

    Weights are not read again; what a size has been cut to stays for the next time.

    Args:
        decoder: of ``load(..., size=...)``.
        size: fraction that is gone, as ``"0.75"``, or ``"0"``.

    Raises:
        InputError: the decoder has one size, or not this one.
    """
    if not hasattr(decoder, "sizes"):
        raise InputError("the decoder", "has one size", 'load it with size="0.75"')
    decoder.sizes.use(size)

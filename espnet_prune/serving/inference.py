"""An encoder for inference only: the same outputs, faster, in a chosen precision.

It stands apart from what loads models (:mod:`espnet_prune.serving.load`): that imports
ESPnet's tasks, whose import imports the student, which needs this.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from espnet_prune.base.errors import InputError
from espnet_prune.families.registry import find_kind
from espnet_prune.serving.fast.encoder import FastEncoder

PRUNING_RUN = "is a pruning run", "export it first: stage 13"
# Of modules whose function is known: subclasses of others may compute something else.
OWNERS = ("torch.nn.modules", "espnet.nets.", "espnet2.asr.encoder.", "espnet_prune.")


class InferenceEncoder(AbsEncoder):
    """A Conformer encoder in one precision, without what only training needs.

    It has no parameters: it cannot be trained, saved or moved to another device.

    Args:
        encoder: ESPnet's, or the compact one made of it.
        features: of each frame.
        precision: of its products.
    """

    def __init__(self, encoder: torch.nn.Module, features: int, precision: str):
        super().__init__()
        self.size, self.precision = encoder.output_size(), precision
        self.fast = FastEncoder(encoder, features, precision)

    def output_size(self) -> int:
        return self.size

    @torch.no_grad()
    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: None = None,
        masks: Tensor | None = None,
        ctc: torch.nn.Module | None = None,
        return_all_hs: bool = False,
    ) -> tuple[Any, Tensor, None]:
        """Encode as ESPnet's encoder does."""
        return self.fast(xs_pad, ilens, masks, return_all_hs)


def for_inference(
    model: ESPnetASRModel, args: argparse.Namespace, precision: str = "fp32"
) -> AbsEncoder:
    """The model's encoder without what only training needs, of its weights as they are.

    In fp32 an encoder that ours cannot compute is given back as it is.

    Args:
        model, args: as ``ASRTask.build_model_from_file`` returns them.
        precision: of its products.
    """
    if not runs_fast(model.encoder, args):
        return model.encoder
    features = args.input_size or model.frontend.output_size()
    return InferenceEncoder(model.encoder, features, precision)


def runs_fast(encoder: AbsEncoder, args: argparse.Namespace) -> bool:
    """Whether :class:`FastEncoder` computes what this encoder does.

    Args:
        encoder: of a loaded model.
        args: the model's training arguments.
    """
    kind = find_kind(args.encoder)
    if kind is None or "precision" not in kind.can:
        return False
    try:
        kind.rules.check(args.encoder_conf)
    except ValueError:
        return False
    # Adapters and parametrizations put other classes in their place, or hooks on them.
    return all(
        type(m).__module__.startswith(OWNERS)
        and not (m._forward_hooks or m._forward_pre_hooks)
        for m in encoder.modules()
    )


def refuse_gates(config: Mapping[str, Any], where: object) -> None:
    """Refuse to decode with a pruning run: its encoder knows nothing of its gates.

    Args:
        config: of the model.
        where: the file to name.

    Raises:
        InputError: it has gates.
    """
    if (config.get("model_conf") or {}).get("gates") is not None:
        raise InputError(where, *PRUNING_RUN)

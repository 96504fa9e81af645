"""Which frames of a padded batch are real, as ESPnet's encoders see it."""

import torch
from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor

from espnet_prune.families.espnet.layers.subsampling import Subsampling, subsampled


def real_frames(x: Tensor, lengths: Tensor, padding: Tensor | None) -> Tensor:
    """Mask of the frames that the subsampling leaves.

    Args:
        x: features, (batch, frame, feature).
        lengths: (batch,) frames of each utterance.
        padding: (batch, frame) True where padded; overrides ``lengths``.

    Returns:
        (batch, 1, time), True for real frames.

    Raises:
        TooShortUttError: fewer frames than the subsampling needs.
    """
    if x.size(1) < Subsampling.MIN_FRAMES:
        raise TooShortUttError(
            f"has {x.size(1)} frames and is too short for subsampling "
            f"(it needs at least {Subsampling.MIN_FRAMES} frames)",
            x.size(1),
            Subsampling.MIN_FRAMES,
        )
    if padding is None:
        # ESPnet's make_pad_mask compares a matrix of frames by frames.
        frames = torch.arange(x.size(1), device=x.device)
        padding = frames >= lengths.to(x.device)[:, None]
    return subsampled(~padding[:, None, :])

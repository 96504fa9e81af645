"""Tell how ESPnet's streaming encoders cut an utterance into chunks.

Tsunoo et al. 2019, "Transformer ASR with contextual block processing" (arXiv
1910.07204). Chunks (ESPnet: blocks) of frames overlap. Each has one more frame before
and behind it, by which it hears what was before, and hands on what it heard.
"""

import math

import torch
from torch import Tensor, nn


def chunks_of(encoder: nn.Module, time: int) -> tuple[int, int]:
    """Count the chunks that an encoder makes of an utterance, and the frames of each.

    Encoders that do not stream make one chunk, as those that do make of few frames.

    Args:
        encoder: ESPnet's, or a compact one.
        time: frames behind the subsampling.
    """
    size = getattr(encoder, "block_size", 0)
    if not size or time <= size:
        return 1, time
    return 1 + math.ceil((time - size) / encoder.hop_size), size + 2


def in_time(encoder: nn.Module, x: Tensor) -> Tensor:
    """Join the chunks that a block gives, as the encoder does behind the last block.

    Args:
        encoder: ESPnet's, or a compact one.
        x: (batch, chunk, frame, channel); or (batch, time, channel), which stays so.

    Returns:
        (batch, time, channel); the times behind the end of the longest utterance, if
        there are any, are padding of the last chunk.
    """
    if x.ndim == 3:
        return x
    x = x[:, :, 1:-1]
    past = encoder.block_size - encoder.hop_size - encoder.look_ahead
    own = slice(past, past + encoder.hop_size)  # the other frames are other chunks'
    parts = x[:, 0, :past], x[:, :, own].flatten(1, 2), x[:, -1, own.stop :]
    return torch.cat(parts, 1)

"""Gates as a training might leave them."""

import torch

from espnet_prune.pruning.gates import gates_of


def learned(encoder, seed: int, spread: float = 2.0, centre: float = 0.0):
    """Set every gate to some log_alpha."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in gates_of(encoder).values():
            noise = torch.randn(len(gate), generator=draw)
            gate.log_alpha.copy_(centre + spread * noise)
    return encoder

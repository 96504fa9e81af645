"""Tensors that have another name from one version of ESPnet to the next.

The linear layer of the subsampling was ``out.0``, before the positions, up to 202511,
and is ``out`` since. A model of either loads under either.
"""

import re
from typing import Any

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import nn


def linear_of(subsampling: nn.Module) -> str:
    """Return the name, within a subsampling, of the linear layer behind it."""
    return "out.0" if isinstance(subsampling.out, nn.Sequential) else "out"


def _load_by_either_name(
    self: AbsEncoder, state_dict: dict[str, Any], prefix: str, *more: Any
) -> None:
    """Load an encoder's own tensors, once all of them have their name of here."""
    known = {prefix + name for name in self.state_dict()}
    for name in [n for n in state_dict if n not in known]:
        if match := re.fullmatch(r"(.*embed\.out\.)(0\.)?([\w.]+)", name):
            here = f"{match[1]}{'' if match[2] else '0.'}{match[3]}"
            # With --init_param there are both, the one of here being random still.
            if here in known:
                state_dict[here] = state_dict.pop(name)
    nn.Module._load_from_state_dict(self, state_dict, prefix, *more)


def read_either_name() -> None:
    """Let all of ESPnet's encoders load what either version wrote.

    202511 takes nothing by a newer name, and where ESPnet loads with strict=False the
    layer would stay random without a word; so it would in 202611 with ``--init_param``.
    """
    AbsEncoder._load_from_state_dict = _load_by_either_name

"""Find the device that a name stands for."""

import torch

from espnet_prune.base.errors import InputError


def find_device(name: str, option: str = "device") -> torch.device:
    """Find the device of that name.

    Args:
        name: "cpu", "cuda", "cuda:1", ...
        option: that gave the name, for the message.

    Raises:
        InputError: torch knows none of that name, or there is no such GPU.
    """
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise InputError(option, f"{name!r} is none", "use cpu or cuda") from e
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise InputError(option, f"{name}: torch sees {seen} GPUs here", "use cpu")
    return device

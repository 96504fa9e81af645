"""A second device where there is none: code that mixes devices fails as on a GPU.

Tensors stay where they are, and carry a mark. What is computed of marked tensors is
marked, and an operation on marked and unmarked ones is refused as CUDA refuses it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

THERE = torch.device("cuda", 0)
HERE = torch.device("cpu")
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
# Of the second tensor its shape alone is looked at.
SHAPED = {Tensor.expand_as, Tensor.view_as}
ACROSS = {Tensor.copy_, Tensor.to, Tensor.cpu} | SHAPED


def is_there(tensor: Tensor) -> bool:
    return getattr(tensor, "there", False)


def there(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the other device."""
    tensor = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    tensor.there = True
    return tensor


def move(module: torch.nn.Module) -> torch.nn.Module:
    """A module whose parameters and buffers are on the other device now."""
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for tensor in filter(None.__ne__, own.values()):
                tensor.there = True
    return module


class TwoDevices(TorchFunctionMode):
    """While it is on, marked tensors are on :data:`THERE`."""

    def __enter__(self) -> "TwoDevices":
        self.generator = torch.Generator
        torch.Generator = lambda device="cpu": self.generator("cpu")
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.Generator = self.generator
        super().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:  # made anew each time
            return THERE if is_there(args[0]) else HERE
        leaves = tree_leaves((args, kwargs))
        asked = [x for x in leaves if isinstance(x, torch.device)]
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if func not in ACROSS:
            self._refuse_mixed(func, args, tensors)
        goes = any(map(is_there, tensors))
        if func in (Tensor.copy_, Tensor.__setitem__) or func in SHAPED:
            goes = is_there(args[0])
        if asked:
            goes = asked[0].type == THERE.type
        if func in (Tensor.cpu, Tensor.tolist, Tensor.numpy):
            goes = False
        args = tree_map_only(torch.device, lambda _: HERE, args)
        kwargs = tree_map_only(torch.device, lambda _: HERE, kwargs)
        found = func(*args, **kwargs)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and is_there(tensor) != goes:
                if any(tensor is x for x in tensors):  # it is another one elsewhere
                    found = tensor = tensor.clone()
                tensor.there = goes
        return found

    @staticmethod
    def _refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
        """Numbers may be anywhere, and so may indices of what is there."""
        if func in INDEXING and is_there(args[0]):
            tensors = [args[0], *(x for x in tree_leaves(args[2:]))]
            tensors = [x for x in tensors if isinstance(x, Tensor)]
        if len({is_there(x) for x in tensors if x.dim()}) > 1:
            raise RuntimeError(f"{func}: tensors are on two devices")

"""Weights in the order that oneDNN's products want, which nothing else can read."""

from typing import Any

from torch import Tensor


class Arranged:
    """Copied and pickled as they were before, and arranged anew.

    A layer arranges its ``weight`` in :meth:`_arrange`, where it can.
    """

    weight: Tensor

    def _arrange(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weight": self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._arrange()

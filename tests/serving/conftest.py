"""What runs on this machine."""

from collections.abc import Callable

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.serving.fast.precision import check_precision


@pytest.fixture(scope="session")
def runnable() -> Callable[[str], None]:
    """``runnable(precision)``: skip the test where this CPU is not made for it."""

    def check(precision: str) -> None:
        try:
            check_precision(precision, torch.device("cpu"))
        except InputError as e:
            pytest.skip(str(e))

    return check

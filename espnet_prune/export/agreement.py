"""Gated and compact outputs are held against each other before anything is kept."""

import logging
from collections.abc import Iterable

from torch import Tensor

MAX_RELATIVE_ERROR = 1e-4
TINY = 1e-12  # outputs may be nothing but zeros


def check_agreement(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The function compares outputs of the gated and of the compact model.

    They should be of double precision: few units that hardly differ, under a norm, make
    much of the rounding of fp32, and that is no fault of the slicing.

    Args:
        pairs: outputs of the same part of both, of one shape.

    Returns:
        the largest difference, relative to the largest of that output.

    Raises:
        RuntimeError: it is above 1e-4, or not finite.
    """
    errors = []
    for gated, compact in pairs:
        largest = gated.abs().max().clamp(min=TINY)
        errors.append(float((gated - compact).abs().max() / largest))
        if not errors[-1] <= MAX_RELATIVE_ERROR:  # nor is nan
            raise RuntimeError(
                "the compact model differs from the gated one by "
                f"{errors[-1]:.2e} (relative)"
            )
    error = max(errors)
    logging.info(f"gated and compact outputs agree within {error:.1e} (relative)")
    return error

"""Query by example: words found again by dynamic time warping, nothing trained."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def distances(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> np.ndarray:
    """Compute the distances of dynamic time warping.

    The cosine distances of frames on the best path are added up, and divided by the sum
    of both lengths.

    A step along both counts twice, so that all paths are equally long (the symmetric
    form of Sakoe & Chiba 1978).

    Args:
        queries, documents: (time, channel) of each.

    Returns:
        (query, document).
    """
    lengths = np.array([len(d) for d in documents])
    most = lengths.max()
    padded = torch.nn.utils.rnn.pad_sequence([_unit(d) for d in documents], True)
    found = np.empty((len(queries), len(documents)))
    for number, query in enumerate(queries):
        local = 1 - torch.einsum("qc,dtc->dqt", _unit(query), padded).double().numpy()
        # total[d, t]: cost of the best path that ends at this query frame, (query + 1)
        # by row; documents side by side, so that the loops are short.
        total = np.full((len(documents), most + 1), np.inf)
        total[:, 0] = 0
        for i in range(len(query)):
            row = np.full_like(total, np.inf)
            for t in range(1, most + 1):
                here = local[:, i, t - 1]
                along_one = np.minimum(total[:, t], row[:, t - 1])
                row[:, t] = here + np.minimum(along_one, total[:, t - 1] + here)
            total = row
        ends = total[np.arange(len(documents)), lengths]
        found[number] = ends / (len(query) + lengths)
    return found


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.float(), dim=-1)


def average_precision(distance: np.ndarray, same: np.ndarray) -> float:
    """Average the precision over the ranks of the right documents.

    Args:
        distance: (document,) from a query.
        same: (document,) whether it is the query's word.
    """
    right = same[np.argsort(distance, kind="stable")]
    ranks = np.flatnonzero(right) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))

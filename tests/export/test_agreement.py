"""Outputs that differ are no export; outputs of nothing but zeros may agree."""

import pytest
import torch

from espnet_prune.export.agreement import check_agreement


def test_largest_relative_difference_of_all_pairs_counts():
    one, two = torch.tensor([1.0, -4.0]).double(), torch.tensor([100.0, 1.0]).double()
    pairs = [(one, one + 4e-6), (two, two - 1e-6), (0 * one, 0 * one)]
    assert check_agreement(pairs) == pytest.approx(1e-6)


@pytest.mark.parametrize("off", [1.0, 1e-3, float("nan"), float("inf")])
def test_what_differs_or_is_not_finite_is_refused(off):
    same, zero = torch.ones(3), torch.zeros(3)
    for gated in (same, zero):
        with pytest.raises(RuntimeError, match="differs from the gated one by"):
            check_agreement([(same, same), (gated, gated + off)])

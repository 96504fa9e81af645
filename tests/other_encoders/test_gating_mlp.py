"""The gating MLP of the E-Branchformer, by itself."""

import pytest
import torch
from kinds import FEATURES, KINDS, NO_DROPOUT


@pytest.fixture
def gating_mlp():
    """That of a gated E-Branchformer's first block."""
    kind = KINDS["e_branchformer"]
    encoder = kind.ours(FEATURES, **kind.sizes | NO_DROPOUT, gates={})
    return encoder.encoders[0].cgmlp


def test_norm_and_product_see_the_same_sample(gating_mlp, monkeypatch):
    seen = []
    gate, product = gating_mlp.csgu.forward, gating_mlp._gated_output
    monkeypatch.setattr(
        gating_mlp.csgu, "forward", lambda x, kept: seen.append(kept) or gate(x, kept)
    )
    monkeypatch.setattr(
        gating_mlp, "_gated_output", lambda units: seen.append(units) or product(units)
    )
    with torch.no_grad():
        gating_mlp.unit_gate.log_alpha.zero_()  # half of them are open
    gating_mlp.train()(torch.randn(1, 9, 16))
    kept, units = seen
    assert 0 < kept.sum() < len(kept) and torch.equal(kept > 0, units > 0)


def test_a_gating_mlp_starts_as_espnets(gating_mlp):
    gating_mlp.csgu.espnet_initialization_fn()
    assert gating_mlp.csgu.conv.weight.abs().max() < 1e-4
    assert torch.equal(gating_mlp.csgu.conv.bias, torch.ones(20))

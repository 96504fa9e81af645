"""Gated with everything open is stock; gated with final values is compact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espnet_prune.pruning.slicing import sliced
from tests.fixtures.gated import (
    CASES,
    CONDITIONED,
    assert_same,
    drawn_sizes,
    drawn_values,
    outputs,
)

LENGTHS = st.lists(st.integers(7, 60), max_size=3).map(lambda some: [47, *some])
every = pytest.mark.parametrize("name", CASES)


@every
@given(data=st.data(), seed=st.integers(0, 10**6), lengths=LENGTHS, train=st.booleans())
@settings(max_examples=12)
def test_open_gates_are_the_stock_module(name, data, seed, lengths, train):
    gated = CASES[name].make(seed, **data.draw(drawn_sizes(name)))
    x = gated.inputs(*lengths)
    for module in (gated.module, gated.stock):
        module.train(train)
    actual, expected = gated(gated.open(), x), outputs(gated.stock, x)
    assert_same(actual, expected, 1e-12)
    for (key, own), there in zip(
        gated.module.state_dict().items(),
        gated.stock.state_dict().values(),
        strict=True,
    ):  # BatchNorm's statistics, too
        torch.testing.assert_close(own, there, msg=key)


@every
@given(
    data=st.data(), seed=st.integers(0, 10**6), lengths=LENGTHS, train=st.booleans(),
    fine=st.booleans(), soft=st.booleans(), units=st.floats(0, 1),
    modules=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=12)
def test_gated_with_final_values_is_compact(
    name, data, seed, lengths, train, fine, soft, units, modules
):
    sizes = data.draw(drawn_sizes(name))
    gated = CASES[name].make(seed, gates={"fine_heads": fine}, **sizes)
    gated.module.train(train)
    own = drawn_values(gated.layout, seed, units, modules, soft)
    x, compact = gated.inputs(*lengths), gated.compact(own)
    assert_same(outputs(compact, x), gated(own, x), 1e-12)
    # What closed channels were given is in no statistic of those that are left.
    left = sliced(gated.layout, gated.module.state_dict(), own)
    for key, value in compact.state_dict().items():
        torch.testing.assert_close(value, left[key], msg=key)


@every
@pytest.mark.parametrize("seed", range(3))
def test_they_are_the_same_in_single_precision(name, seed):
    gated = CASES[name].make(seed, torch.float32)
    own = drawn_values(gated.layout, seed, 0.5 + 0.2 * seed).float()
    x = gated.inputs(61, 40, 7)
    assert_same(outputs(gated.compact(own), x), gated(own, x), 1e-5)


# What of these cases is not as in another.
APART = {"conformer_legacy": "attn", "e_branchformer_selfattn": "attn"}
APART |= {"conformer_by_8": "embed"}


def in_the_second_block():
    """Structures of the second block, and of what is in none, of every case."""
    for name in (n for n in CASES if n not in CONDITIONED):  # the same structures
        for structure in CASES[name].make().layout.structures:
            there = APART.get(name, "") in structure.name
            if there and "ers.0" not in structure.name and not structure.any_of:
                yield pytest.param(name, structure, id=f"{name}-{structure.name}")


@pytest.mark.parametrize(("name", "structure"), in_the_second_block())
def test_each_structure_alone(name, structure):
    """Some of its units go, or are folded, or go in one head, or all that can go."""
    gated = CASES[name].make()
    gated.module.eval()
    x, span = gated.inputs(61, 40, 7), gated.layout.span(structure.name)
    size = structure.size
    some = torch.arange(size) % 3 > 0
    for kept in (some, 0.3 + 0.7 * some, torch.arange(size) < size // 4, 0 * some):
        own = gated.open()
        own[span] = kept.double()
        own[span][: structure.least] = 1
        own = gated.layout.settled(own)
        compact = gated.compact(own)
        with torch.no_grad():
            assert_same(outputs(compact, x), gated(own, x), 1e-12)
        smaller, dense = (
            sum(p.numel() for p in m.parameters()) for m in (compact, gated.stock)
        )
        if own.all():
            assert smaller == dense
        elif not structure.name.endswith("qk"):  # of which one head may keep all
            assert smaller < dense
    if gated.memory is None:
        compact, x = compact.float(), (x[0].float(), *x[1:])
        int8 = torch.ao.quantization.quantize_dynamic(compact, {nn.Linear})
        assert outputs(int8, x)[0].isfinite().all()
        outputs(compact, x)[0].square().sum().backward()
        unused = [n for n, p in compact.named_parameters() if p.grad is None]
        assert not unused  # DDP stops at one


@every
def test_blocks_can_go(name):
    gated = CASES[name].make(num_blocks=3)
    gated.module.train()
    x, total = gated.inputs(61, 40, 7), len(gated.stock.state_dict())
    for gone in ("1", "02", "012"):
        own = gated.open()
        for structure in gated.layout.structures:
            if any(f"ers.{i}." in structure.name for i in gone):
                own[gated.layout.span(structure.name)] = 0
        compact = gated.compact(gated.layout.settled(own))
        assert_same(outputs(compact, x), gated(gated.layout.settled(own), x), 1e-12)
        left = [key for key in compact.state_dict() if f"ers.{gone[0]}." in key]
        assert not left and len(compact.state_dict()) < total


@pytest.mark.parametrize(
    "name", ["conformer", "conformer_dim", "e_branchformer", *CONDITIONED]
)
def test_intermediate_ctc_sees_the_same(name):
    gated = CASES[name].make(num_blocks=3, interctc_layer_idx=[1, 2])
    own, x = drawn_values(gated.layout, 0), gated.inputs(61, 40)
    found = outputs(gated.compact(own), x)
    assert len(found) == 1 + 3 + 2  # output, blocks, what CTC sees
    assert_same(found, gated(own, x), 1e-12)


@every
def test_everything_learns_under_gates(name):
    """A parameter without gradient would stop DDP; a closed gate could not return."""
    gated = CASES[name].make()
    gated.module.train()
    own = drawn_values(gated.layout, 0, 0.6, 1.0, soft=False).requires_grad_()
    x, *_ = gated(gated.layout.complete(own, values=True), gated.inputs(61, 40))
    (x * torch.randn_like(x)).sum().backward()
    missing = [n for n, p in gated.module.named_parameters() if p.grad is None]
    assert not missing
    slopes = own.grad[gated.layout.learned]
    assert slopes.isfinite().all() and (slopes != 0).float().mean() > 0.6


@pytest.mark.parametrize("gone", ["", "self_attn", "src_attn", "feed_forward", "."])
def test_search_steps_of_a_compact_decoder_are_its_outputs(gone):
    gated = CASES["decoder"].make()
    gated.module.eval()
    own = gated.open()
    for structure in gated.layout.structures:
        if gone and "decoders.0" in structure.name and gone in structure.name:
            own[gated.layout.span(structure.name)] = 0
    compact = gated.compact(gated.layout.settled(own))
    memory, lens, tokens, token_lens = gated.inputs(50, 50, 50)
    whole = compact(memory, lens, tokens, token_lens)[0].log_softmax(-1)
    states = [None] * 3
    for length in range(1, 4):
        scores, states = compact.batch_score(tokens[:, :length], states, memory)
        torch.testing.assert_close(scores, whole[:, length - 1])

"""Declarations: what does not fit a model, what depends on what, what is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.slicing import first_units, kept_sizes, sliced
from espnet_prune.pruning.structure import FLAT, Slot, Structure
from tests.fixtures.gated import CASES, drawn_values

SHAPES = {"weight": (6, 4), "bias": (6,), "flat": (2, 3), "next": (2, 6)}


def heads(**changes):
    """Two heads of three dimensions in a submodule, and a whole that it keeps open."""
    output = Slot("next", 1)
    rows = Slot("weight"), Slot("bias"), Slot("flat", FLAT)
    found = {
        "module": Structure("module", 1, gated=(output,), owns=("next",)),
        "head": Structure("head", 2, gated=(output,), parent="module", key=("heads",)),
        "dim": Structure(
            "dim", 6, gated=(*rows, output), cut=(*rows, output), parent="head",
            even=True, key=("dims",),
        ),
        "whole": Structure("whole", 1, any_of=("module",)),
    }  # fmt: skip
    return list((found | changes).values())


@pytest.mark.parametrize(
    ("structures", "told"),
    [
        ([Structure("a", 1), Structure("a", 2)], "a is declared twice"),
        ([Structure("a", 2, cut=(Slot("wait"),))], "a: the model has no wait"),
        ([Structure("a", 4, gated=(Slot("bias"),))], "a: 4 units in 1 tiles .* 6 en"),
        ([Structure("a", 3, gated=(Slot("bias", tiles=4),))], "a: 3 units in 4 tiles"),
        (
            [Structure("a", 2, gated=(Slot("bias", 0, 3, 4),))],
            "share 4 entries of bias",
        ),
        (
            [Structure("a", 2), Structure("b", 3, parent="a")],
            "b: 3 units .* the 2 of a",
        ),
    ],
)
def test_declarations_that_do_not_fit_are_refused(structures, told):
    with pytest.raises(ValueError, match=told):
        layout = Layout(structures, SHAPES)
        for structure in structures:
            for slot in structure.cut:
                layout.entries(structure, slot)


def test_a_cut_that_leaves_a_part_to_no_structure_is_refused():
    layout = Layout([Structure("a", 2, cut=(Slot("bias", 0, 0, 4),))], SHAPES)
    with pytest.raises(ValueError, match="bias: a part of dimension 0 is in no struct"):
        sliced(layout, {"bias": torch.ones(6)}, torch.ones(2))


def test_units_of_a_slot_are_spread_over_its_tiles():
    structure, slot = Structure("a", 2), Slot("glu", tiles=2)
    entries = Layout([structure], {"glu": (8,)}).entries(structure, slot)
    assert entries.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_tensors_are_multiplied_by_all_gates_that_they_depend_on():
    layout = Layout(heads(), SHAPES)
    own = torch.tensor([0.5, 1, 2, 1, 2, 3, 4, 5, 6, 1.0])  # module, heads, dims, whole
    gated = layout.gated({name: torch.ones(s) for name, s in SHAPES.items()}, own)
    assert gated["bias"].tolist() == [1, 2, 3, 4, 5, 6]
    assert gated["weight"][:, 1].tolist() == [1, 2, 3, 4, 5, 6]
    assert gated["flat"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert gated["next"][1].tolist() == [0.5, 1, 1.5, 4, 5, 6]
    assert layout.effective(own).tolist() == [0.5, 0.5, 1, 0.5, 1, 1.5, 4, 5, 6, 1]
    # A single unit is a factor of its own in every cost.
    assert layout.sums(own).tolist() == [0.5, 3, 1 + 2 + 3 + 2 * 15, 1]


@pytest.mark.parametrize(
    ("module", "of_heads", "dims", "left"),
    [
        (0, [1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (1, [1, 1], [0, 0, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0, 1, 0, 1, 1]),
        (1, [0, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0, 1, 0, 0, 1]),
        (1, [1, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (0.5, [1, 1], [0.5] * 6, [0.5, 1, 1, *[0.5] * 6, 1]),
    ],
)
def test_what_cannot_be_goes_with_what_it_needs(module, of_heads, dims, left):
    layout = Layout(heads(), SHAPES)
    own = torch.tensor([module, *of_heads, *dims, 1.0])
    assert layout.settled(own).tolist() == left


def test_a_head_without_units_that_it_does_not_need_stays():
    dim = Structure("dim", 6, parent="head", needed=False)
    layout = Layout(heads(dim=dim), SHAPES)
    own = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 1.0])
    assert layout.settled(own).equal(own)


def test_unequal_rows_are_filled_up_with_zeros():
    layout = Layout(heads(), SHAPES)
    own = torch.tensor([1, 1, 1, 0, 1, 0, 1, 0, 0.5, 1])
    found = sliced(layout, {n: torch.ones(s) for n, s in SHAPES.items()}, own)
    assert found["bias"].tolist() == [1, 0, 1, 0.5]
    assert found["flat"].tolist() == [[1, 0], [1, 0.5]]
    assert found["weight"].shape == (4, 4) and found["next"].shape == (2, 4)
    assert kept_sizes(layout, own) == {("heads",): 2, ("dims",): 2}
    gone = sliced(layout, {n: torch.ones(s) for n, s in SHAPES.items()}, 0 * own)
    assert not gone  # what the module owns, and empty tensors


@pytest.mark.parametrize("name", CASES)
@given(seed=st.integers(0, 10**6), units=st.floats(0, 1), modules=st.floats(0, 1))
@settings(max_examples=20)
def test_values_settle_once_and_sizes_tell_how_many_are_left(
    name, seed, units, modules
):
    layout = CASES[name].make().layout
    own = drawn_values(layout, seed, units, modules, even=True)
    assert layout.settled(own).equal(own)
    sizes = kept_sizes(layout, own)
    assert kept_sizes(layout, first_units(layout, sizes)) == sizes

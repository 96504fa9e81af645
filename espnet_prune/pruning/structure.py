"""Declare what can be removed from a model, beside it.

A model stays as its authors wrote it. A *structure* is one prunable dimension of it: so
many like units (hidden units, heads, channels, whole submodules), where their slices
lie in the model's tensors, and which other units they depend on. Gating, cost,
selection, slicing and reports follow from the list of structures alone.
"""

from dataclasses import dataclass

FLAT = -1  # the dimension of a tensor whose elements, in order, belong to the units


@dataclass(frozen=True)
class Slot:
    """A stretch of one dimension of a tensor, shared out evenly among units.

    Args:
        tensor: name of a parameter or buffer, as in ``state_dict``.
        dim: dimension of the tensor, or :data:`FLAT`.
        start, length: the stretch; a length of None goes on to the end.
        tiles: how often the units come by in it: 2 where a gated linear unit multiplies
            channel c with channel c + C.
    """

    tensor: str
    dim: int = 0
    start: int = 0
    length: int | None = None
    tiles: int = 1


@dataclass(frozen=True)
class Structure:
    """A structure of so many units that can go, each with its slices.

    Args:
        name: of the structure, unique in its model: ``encoders.3.feed_forward.unit``.
        size: number of units.
        group: what can be given a target of its own (``ffn``, ``attention``); None for
            a structure that runs through all groups.
        thing: what one unit is called in a table of prices: ``ffn.unit``.
        gated: what a unit's gate multiplies while it is learned, for good at export.
        cut: what goes with a unit at export.
        opens: buffers that are told which units are open (1) and which are not (0).
        owns: modules or tensors, by name, that exist only while the structure (of one
            unit) does.
        parent: structure without whose unit these do not exist; each of its units has
            an equal share of them, in order.
        needed: whether a unit of the parent that is left with none of these goes, too.
        even: whether every unit of the parent must keep equally many, as the heads of
            an attention layer, which are computed together.
        least: how many must stay.
        nested: 1 where a unit is open at most as far as the one before it, -1 as the
            one after it: the taps of a filter, which go from the ends.
        learned: whether the units have gates; they are all open where not.
        any_of: structures of one unit, of which one that is open keeps this one open;
            it has no gate of its own then, unless ``with_gate``.
        with_gate: whether one with ``any_of`` has a gate, which closes all of these.
        most_dropped: bound on the probability that a gate is closed at the start.
        key: where the number of units that are left stands in the compact model's
            ``architecture``.
    """

    name: str
    size: int
    group: str | None = None
    thing: str = ""
    gated: tuple[Slot, ...] = ()
    cut: tuple[Slot, ...] = ()
    opens: tuple[Slot, ...] = ()
    owns: tuple[str, ...] = ()
    parent: str | None = None
    needed: bool = True
    even: bool = False
    least: int = 0
    nested: int = 0
    learned: bool = True
    any_of: tuple[str, ...] = ()
    with_gate: bool = False
    most_dropped: float = 1.0
    key: tuple[str | int, ...] = ()

"""The smallest things that a projection keeps or removes, in a layer with gates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_prune.pruning.gates import Gate

IsOpen = Callable[[Gate], Tensor]  # bool (gates,)


@dataclass(frozen=True)
class Unit:
    """Gates that are kept together.

    Args:
        score: their log_alpha; the higher, the sooner it is kept.
        layer: where they are.
        parts: gates, and indices in them.
        entry: whether it opens its submodule, too; the others wait for that.
    """

    score: float
    layer: nn.Module
    parts: tuple[tuple[Gate, Tensor], ...]
    entry: bool = False

    def set(self, keep: dict[Gate, Tensor], value: bool) -> None:
        for gate, indices in self.parts:
            keep[gate][indices] = value


def scores_of(gate: Gate) -> Tensor:
    """Its log_alpha, (gates,), on the CPU, where the choice is made."""
    return gate.log_alpha.detach().cpu()


def units_of(layer: nn.Module, is_open: IsOpen, multiple: int = 1) -> list[Unit]:
    """The units of a layer, best first; none if its submodule is closed.

    Args:
        layer: one with gates.
        is_open: which coarse gates (submodules; heads whose dimensions have gates)
            are open.
        multiple: how many units, channels or dimensions go together; fewer of the last
            of a gate, which must not be kept without those before it.
    """
    if not hasattr(layer, "module_gate"):
        units = _channels(layer, multiple)
    elif not is_open(layer.module_gate).any():
        return []
    elif getattr(layer, "qk_gate", None) is not None:
        units = _slices(layer, is_open(layer.head_gate), multiple)
    elif getattr(layer, "unit_gate", None) is not None:
        units = _bundles(layer, layer.unit_gate, multiple)
    else:
        units = _bundles(layer, layer.head_gate)
    units = sorted(units, key=lambda unit: -unit.score)
    if hasattr(layer, "module_gate") and not units[0].entry:
        first, one = units[0], torch.tensor([0])
        parts = (*first.parts, (layer.module_gate, one))
        # However many come with it, it is the best one that opens the submodule.
        gate, indices = first.parts[0]
        best = float(scores_of(gate)[indices].max())
        units[0] = Unit(best, layer, parts, entry=True)
    if getattr(layer, "out_gate", None) is not None:
        units = _with_outputs(units, layer, multiple)
    return units


def in_effect(layer: nn.Module, is_open: IsOpen) -> dict[Gate, Tensor]:
    """Which of a layer's gates let anything through: open, and under no closed one."""
    found = {g: is_open(g) for g in layer.children() if isinstance(g, Gate)}
    if getattr(layer, "qk_gate", None) is not None:
        heads = found[layer.head_gate]
        for gate in (layer.qk_gate, layer.v_gate):
            of_heads = found[gate].view(len(heads), -1)
            found[gate] = (of_heads & heads[:, None]).flatten()
    if hasattr(layer, "module_gate"):
        present = found[layer.module_gate]
        found = {gate: mask & present for gate, mask in found.items()}
    return found


def _bundles(layer: nn.Module, gate: Gate, multiple: int = 1) -> Iterator[Unit]:
    scores, order = scores_of(gate).sort(descending=True, stable=True)  # as argmax
    for ranks in _together(len(gate), multiple):
        yield Unit(float(scores[ranks].mean()), layer, ((gate, order[ranks]),))


def _with_outputs(units: list[Unit], layer: nn.Module, multiple: int) -> list[Unit]:
    """With the output channels; the best of them come with the submodule's entry."""
    best, *others = _bundles(layer, layer.out_gate, multiple)
    entry = next(unit for unit in units if unit.entry)
    # Nothing of a submodule may be looked at before its entry.
    score = max(entry.score, best.score)
    opened = Unit(score, layer, (*entry.parts, *best.parts), entry=True)
    rest = [unit for unit in units if unit is not entry]
    return [opened, *sorted([*rest, *others], key=lambda unit: -unit.score)]


def _together(size: int, multiple: int) -> list[slice]:
    """Ranks that go together."""
    return [slice(i, min(i + multiple, size)) for i in range(0, size, multiple)]


def _channels(layer: nn.Module, multiple: int) -> Iterator[Unit]:
    """Of the subsampling; the best of each convolution is kept in any case."""
    for gate in (layer.gate1, layer.gate2):
        best = scores_of(gate).argmax()
        for unit in _bundles(layer, gate, multiple):
            indices = unit.parts[0][1]
            if len(rest := indices[indices != best]):
                yield Unit(unit.score, layer, ((gate, rest),))


def _slices(layer: nn.Module, heads: Tensor, multiple: int) -> Iterator[Unit]:
    """More dimensions in every head that is kept.

    The heads of a layer are computed together, as wide as the widest: a dimension in
    one head alone would cost as much as one in each.
    """
    if not heads.any():  # the submodule is open: its best head stands for it
        best = scores_of(layer.head_gate)
        heads = best == best.max()
    rows = heads.nonzero().squeeze(1)

    def ranked(gate: Gate) -> tuple[Tensor, Tensor]:
        by_head = scores_of(gate).view(len(heads), -1)
        scores, order = by_head[rows].sort(dim=1, descending=True)
        return scores.mean(0), order + (rows * by_head.shape[1])[:, None]

    (qk, qk_order), (v, v_order) = ranked(layer.qk_gate), ranked(layer.v_gate)
    first, *_ = together = _together(len(qk), multiple)
    parts = (
        (layer.qk_gate, qk_order[:, first].flatten()),
        (layer.v_gate, v_order[:, first].flatten()),
        (layer.head_gate, rows),
        (layer.module_gate, torch.tensor([0])),
    )
    yield Unit(max(float(qk[0]), float(v[0])), layer, parts, entry=True)
    for gate, scores, order in (
        (layer.qk_gate, qk, qk_order),
        (layer.v_gate, v, v_order),
    ):
        for ranks in together[1:]:
            chosen = order[:, ranks].flatten()
            yield Unit(float(scores[ranks].mean()), layer, ((gate, chosen),))

"""Describe the parts that all encoders and decoders have.

A part is one submodule with its norm: a feed-forward layer, attention. Its function
adds to a :class:`Description` what can go of it, who reads and writes the channels
between the layers, and how often its tensors are applied.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from espnet_prune.config.sections import MODEL_DIM, GateOptions
from espnet_prune.pruning.cost import Work
from espnet_prune.pruning.layout import Layout
from espnet_prune.pruning.open_norm import OpenNorm
from espnet_prune.pruning.structure import FLAT, Slot, Structure

SHARED_DROP_RATE = 0.01  # at the start, at most, of channels, and of whole blocks
Key = tuple[str | int, ...]
ESPNET = ("linear_q", "linear_k", "linear_v", "linear_out")


@dataclass
class Description:
    """A description of what can go of a model, put together part by part.

    Args:
        options: what has gates, and how they are made.
        gated: whether the model has gates; a compact one has none.

    Attributes:
        structures: what can go.
        times: parameter -> the clock that counts how often it is applied.
        extra: structure -> the clock that counts its MACs without a parameter.
        reads, writes: slots of the channels between the layers.
        norms: norms of the channels between the layers.
        open_norms: norms that the gated model replaces -> whether channels of it may
            go, and whether it may itself.
    """

    options: GateOptions
    gated: bool = True
    structures: list[Structure] = field(default_factory=list)
    times: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    reads: list[Slot] = field(default_factory=list)
    writes: list[Slot] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    open_norms: dict[str, tuple[bool, bool]] = field(default_factory=dict)

    def work(self, clocks: Mapping[str, float]) -> Work:
        """Count how often everything is applied, for the values of the clocks."""
        return Work(
            {name: clocks[clock] for name, clock in self.times.items()},
            {name: clocks[clock] for name, clock in self.extra.items()},
        )

    def prepare(self, model: nn.Module) -> None:
        """Put norms that can be told what is open where the gated model needs them."""
        if not self.gated:
            return
        for name, (narrow, can_go) in self.open_norms.items():
            path, _, leaf = name.rpartition(".")
            holder = model.get_submodule(path)
            setattr(holder, leaf, OpenNorm(getattr(holder, leaf), narrow, can_go))

    def layout(self, model: nn.Module) -> Layout:
        """Make the layout of the model, which :meth:`prepare` has been through."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return Layout(self.structures, {n: t.shape for n, t in tensors.items()})


def under(module: nn.Module, prefix: str) -> nn.Module:
    """Hold a module under the names, each with its dot, of which a prefix consists."""
    for name in reversed(prefix.split(".")[:-1]):
        holder = nn.Module()
        holder.add_module(name, module)
        module = holder
    return module


def feed_forward(
    model: nn.Module,
    into: Description,
    at: str,
    norm: str,
    key: Key,
    group: str = "ffn",
    clock: str = "time",
    names: tuple[str, str] = ("w_1", "w_2"),
    own_norm: bool = True,
) -> None:
    """Describe ``w_2(dropout(activation(w_1(norm(x)))))``.

    Args:
        model: that holds it.
        into: what is added to.
        at, norm: names of the layer and of its norm.
        key: where its number of units stands in the architecture.
        group: under which it is counted.
        clock: how often it is applied.
        names: of its two linear layers.
        own_norm: whether the norm goes with it; one behind it stays.
    """
    first, second = (f"{at}.{name}" for name in names)
    units = model.get_submodule(first).out_features
    out = Slot(f"{second}.weight", 1)
    into.structures += [
        Structure(
            at,
            1,
            outer(group),
            f"{group}.module",
            gated=(out, Slot(f"{second}.bias")),
            owns=(at, norm) if own_norm else (at,),
        ),
        Structure(
            f"{at}.unit",
            units,
            outer(group),
            f"{group}.unit",
            gated=(out,),
            cut=(Slot(f"{first}.weight"), Slot(f"{first}.bias"), out),
            parent=at,
            key=key,
        ),
    ]
    into.reads.append(Slot(f"{first}.weight", 1))
    into.writes += [Slot(f"{second}.weight"), Slot(f"{second}.bias")]
    into.norms.append(norm)
    into.times |= dict.fromkeys([f"{first}.weight", f"{second}.weight"], clock)


def attention(
    model: nn.Module,
    into: Description,
    at: str,
    norm: str,
    keys: tuple[Key, Key, Key],
    group: str = "attention",
    clocks: tuple[str, str, str, str] = ("time", "time", "qk", "v"),
    merged: tuple[Slot, ...] = (),
    names: tuple[str, str, str, str] = ESPNET,
    own_norm: bool = True,
    positions: str = "offsets",
) -> None:
    """Describe multi-head attention, with relative positions if it has them.

    A query/key dimension is gated where the query is made, its biases included; the
    rows of the key and of the position projection are only cut. Wang et al. 2023
    (arXiv 2306.01385): gates on the dimensions inside heads.

    Args:
        model, into, at, norm, group: as for :func:`feed_forward`.
        keys: where heads, query/key and value dimensions stand in the architecture.
        clocks: how often queries and keys are made; MACs of a query/key and of a value
            dimension without parameters.
        merged: where its output is gated, if that is not added to the input.
        names: of the projections of queries, keys, values and outputs.
        own_norm: as for :func:`feed_forward`.
        positions: how many relative positions are projected.
    """
    layer = model.get_submodule(at)
    heads = layer.num_heads if hasattr(layer, "num_heads") else layer.h
    dim = model.get_submodule(f"{at}.{names[0]}").out_features // heads
    queries, memory, qk_products, v_products = clocks
    q, k, v, made = (
        [Slot(f"{at}.{name}.{part}") for part in ("weight", "bias")] for name in names
    )
    out = Slot(f"{at}.{names[3]}.weight", 1)
    if hasattr(layer, "linear_pos"):
        q += [Slot(f"{at}.pos_bias_{name}", FLAT) for name in "uv"]
        k.append(Slot(f"{at}.linear_pos.weight"))
        into.times[f"{at}.linear_pos.weight"] = positions
    fine = into.options.fine_heads
    head, qk, value = f"{at}.head", f"{at}.qk", f"{at}.v"
    into.structures += [
        Structure(
            at,
            1,
            outer(group),
            f"{group}.module",
            gated=merged or (out, made[1]),
            owns=(at, norm) if own_norm else (at,),
        ),
        Structure(
            head,
            heads,
            outer(group),
            f"{group}.head",
            gated=(out,),
            parent=at,
            key=keys[0],
        ),
        Structure(
            qk,
            heads * dim,
            outer(group),
            f"{group}.qk",
            gated=tuple(q) if fine else (),
            cut=(*q, *k),
            parent=head,
            needed=False,
            even=True,
            learned=fine,
            key=keys[1],
        ),
        Structure(
            value,
            heads * dim,
            outer(group),
            f"{group}.v",
            gated=(out,) if fine else (),
            cut=(*v, out),
            parent=head,
            even=True,
            learned=fine,
            key=keys[2],
        ),
    ]
    into.reads += [Slot(f"{at}.{name}.weight", 1) for name in names[:3]]
    into.writes += made
    into.norms.append(norm)
    for name, clock in zip(names, (queries, memory, memory, queries), strict=True):
        into.times[f"{at}.{name}.weight"] = clock
    into.extra |= {qk: qk_products, value: v_products}


def whole_block(
    into: Description,
    at: str,
    parts: list[str],
    *norms: str,
    bias: str | None = None,
) -> None:
    """Describe a block that is gone once all its submodules are.

    Args:
        into: what is added to.
        at: name of the block.
        parts: its submodules.
        norms: of the block alone; they go with it.
        bias: of its output, if there is one; it goes, too.
    """
    gated, owns = [], [*norms]
    if into.gated:
        gated += [Slot(f"{norm}.present") for norm in norms]
        into.open_norms |= {norm: (False, True) for norm in norms}
    if bias is not None:
        owns.append(bias)
        gated.append(Slot(bias))
    into.structures.append(
        Structure(
            at,
            1,
            thing="norm.module" if norms else "",
            gated=tuple(gated),
            owns=tuple(owns),
            any_of=tuple(parts),
            with_gate=into.options.blocks,
            most_dropped=SHARED_DROP_RATE,
        )
    )


def model_dim(model: nn.Module, into: Description, last: list[str]) -> None:
    """Describe the channels between the layers, once all else is.

    All that reads such a channel reads it through a norm: what is written to one that
    is closed is never seen. CoFi's hidden dimensions (Xia et al. 2022, arXiv
    2204.00408); one gate closes a channel in all blocks.

    Args:
        model, into: as for :func:`feed_forward`.
        last: norms of what the blocks and the model give.
    """
    norms = [*into.norms, *last]
    affine = [Slot(f"{norm}.{name}") for norm in norms for name in ("weight", "bias")]
    opens = []
    if into.gated:
        opens = [Slot(f"{norm}.open") for norm in norms]
        for norm in norms:
            into.open_norms[norm] = (True, into.open_norms.get(norm, (0, False))[1])
    into.structures.append(
        Structure(
            MODEL_DIM,
            model.get_submodule(last[-1]).normalized_shape[0],
            gated=tuple(affine),
            cut=(*into.reads, *into.writes, *affine),
            opens=tuple(opens),
            least=1,
            most_dropped=SHARED_DROP_RATE,
        )
    )


def outer(group: str) -> str:
    """Return ``decoder`` of ``decoder.self``: what can be given a target."""
    return group.partition(".")[0]

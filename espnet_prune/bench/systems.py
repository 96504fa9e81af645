"""The encoders that the bench times: ESPnet's, ours, and compact ones.

Weights are random and compact encoders lose random structures: how long a forward
takes depends on sizes only, and theirs are as uneven as a real pruning leaves them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import Tensor, nn

from espnet_prune.config.sections import GateOptions, SparsityOptions
from espnet_prune.families.espnet.compact import architecture_of
from espnet_prune.families.espnet.conformer import describe
from espnet_prune.families.espnet.encoders import PrunableConformerEncoder
from espnet_prune.families.espnet.layers import encoder_clocks
from espnet_prune.pruning.budget import Budget, make_constraints
from espnet_prune.pruning.cost import count_terms, evaluate
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.projection import project
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.pruning.slicing import sliced
from espnet_prune.serving.inference import AutocastEncoder, RuntimeEncoder, graph_file

FRAMES_PER_SECOND = 100
SECONDS = 10.0  # of the utterance whose MACs the targets count
COMMON = {
    "macaron_style": True,
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
}


@dataclass(frozen=True)
class Size:
    """Sizes of a dense Conformer; the names are those of ESPnet's options."""

    features: int
    output_size: int
    attention_heads: int
    linear_units: int
    num_blocks: int
    cnn_module_kernel: int

    def conf(self) -> dict[str, Any]:
        """Return the sizes as ``encoder_conf``."""
        return {k: v for k, v in asdict(self).items() if k != "features"} | COMMON


# The recipe's own (conf/train_small.yaml), LibriSpeech-100 and LibriSpeech-960.
SIZES = {
    "small": Size(40, 96, 4, 256, 8, 15),
    "d256": Size(80, 256, 4, 1024, 12, 31),
    "d512": Size(80, 512, 8, 2048, 12, 31),
    "tiny": Size(20, 16, 2, 32, 2, 5),  # to try the bench itself
}


@dataclass(frozen=True)
class System:
    """One encoder in one precision.

    Args:
        name: ``stock_dense``, ``stock_int8``, ``dense``, ``compact``, or ``compact_r8``
            where units are kept in multiples of 8; with ``_torch`` behind it on a CPU
            if no runtime runs it, with ``_compiled`` if :func:`compiled`.
        precision: of its products.
        target: fraction of the MACs that was removed, or None.
        run: (features, lengths) -> outputs.
        encoder: of these sizes, as torch computes it.
        size: of the dense one that it comes from.
        macs: of one utterance, by its feature frames.
        weight_bytes: of what it holds.
        fresh: makes another ``run`` that holds nothing of earlier calls, in which the
            use of memory is measured; None where that could not be told.
    """

    name: str
    precision: str
    target: float | None
    run: Callable[[Tensor, Tensor], object]
    encoder: nn.Module
    size: Size
    macs: Callable[[int], float]
    weight_bytes: int
    fresh: Callable[[], Callable[[Tensor, Tensor], object]] | None = None


def compact_encoder(
    size: Size, target: float | None, multiple: int = 1
) -> tuple[nn.Module, Callable[[int], float]]:
    """Make an encoder that lost random structures worth ``target`` of its MACs.

    Args:
        size: of the dense one.
        target: fraction of the MACs to remove; None: the dense one.
        multiple: of what the numbers of units shall be.

    Returns:
        the encoder, and its MACs by feature frames.
    """
    dense, options = ConformerEncoder(size.features, **size.conf()), GateOptions()
    about = describe(dense, options)
    about.prepare(dense)
    layout = about.layout(dense)
    names = [name for name, _ in dense.named_parameters()]

    def terms(frames: int):
        return count_terms(
            layout,
            names,
            about.work(encoder_clocks(dense, frames, size.features)),
        )

    own = layout.whole()
    if target is not None:
        removed = SparsityOptions(kind="macs", target=target)
        found = terms(round(SECONDS * FRAMES_PER_SECOND))
        budget = Budget(layout, found, make_constraints(removed, layout, found))
        gates, tensors = Gates(layout, options), dict(dense.named_parameters())
        settle(gates, budget, scores_of("random", budget, tensors, seed=0))
        own = project(gates, budget, multiple).values
    sums = layout.sums((own != 0).double())

    @cache
    def macs(frames: int) -> float:
        return float(evaluate(terms(frames)["macs"], sums))

    sizes = architecture_of(layout, own)
    compact = PrunableConformerEncoder(size.features, **size.conf(), architecture=sizes)
    compact.load_state_dict(sliced(layout, dense.state_dict(), own))
    return compact.eval(), macs


def systems(
    size: Size,
    targets: list[float],
    precisions: list[str],
    device: torch.device,
    multiples: Sequence[int] = (1,),
) -> list[System]:
    """Make ESPnet's dense encoder, and dense and compact ones run as by :func:`load`.

    Args:
        multiples: compact encoders for each, with numbers of units that are multiples.
    """
    stock = ConformerEncoder(size.features, **size.conf()).to(device).eval()
    macs = compact_encoder(size, None)[1]
    found: list[System] = []

    def add(name, precision, run, encoder, macs, target):
        held = held_bytes(encoder)
        found.append(System(name, precision, target, run, encoder, size, macs, held))

    add("stock_dense", "fp32", stock, stock, macs, None)
    if "int8" in precisions:
        # What ESPnet's own decoder offers (quantize_asr_model).
        linear = torch.ao.quantization.quantize_dynamic(stock, {nn.Linear})
        products = (m.weight for m in stock.modules() if isinstance(m, nn.Linear))
        add("stock_int8", "int8", linear, stock, macs, None)
        held = found[-1].weight_bytes - 3 * sum(weight.numel() for weight in products)
        found[-1] = replace(found[-1], weight_bytes=held)
    ours = [("dense", None, stock, macs)]
    for target, multiple in itertools.product(targets, multiples):
        name = "compact" if multiple == 1 else f"compact_r{multiple}"
        encoder, macs = compact_encoder(size, target, multiple)
        ours.append((name, target, encoder.to(device), macs))
    for name, target, encoder, macs in ours:
        if device.type == "cuda":
            for precision in precisions:
                run = AutocastEncoder(encoder) if precision == "bf16" else encoder
                if run is not stock:
                    add(name, precision, run, encoder, macs, target)
            continue
        if target is not None:
            add(f"{name}_torch", "fp32", encoder, encoder, macs, target)
        for precision in precisions:
            file = graph_file(encoder, size.features, precision)
            run = RuntimeEncoder(encoder, size.features, precision)
            add(name, precision, run, encoder, macs, target)
            # What its arena keeps would hide what a call needs.
            fresh = partial(RuntimeEncoder, encoder, size.features, precision, False)
            found[-1] = replace(
                found[-1], weight_bytes=file.stat().st_size, fresh=fresh
            )
    return [s if s.fresh else replace(s, fresh=lambda s=s: s.run) for s in found]


def compiled(systems: Sequence[System], device: torch.device) -> list[System]:
    """Compile the systems by ``torch.compile``, on a GPU with CUDA graphs.

    ``torch.compile`` compiles for each length anew. On CPUs only the encoders that
    torch runs in fp32 are compiled.
    """
    # All systems and lengths are versions of the same code.
    torch._dynamo.config.recompile_limit = 1 << 16
    graphs = device.type == "cuda"
    return [
        replace(
            system,
            name=f"{system.name}_compiled",
            run=torch.compile(
                system.run, dynamic=False, mode="reduce-overhead" if graphs else None
            ),
            fresh=None,  # its first call compiles, too
        )
        for system in systems
        if graphs or isinstance(system.run, nn.Module) and system.run is system.encoder
    ]


def held_bytes(encoder: nn.Module) -> int:
    """Count the bytes of an encoder's weights."""
    return sum(p.numel() * p.element_size() for p in encoder.parameters())

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
from espnet_prune.families.espnet.parts import encoder_clocks
from espnet_prune.pruning.budget import Budget, make_constraints
from espnet_prune.pruning.cost import count_terms, evaluate
from espnet_prune.pruning.gates import Gates
from espnet_prune.pruning.projection import project
from espnet_prune.pruning.scores import scores_of, settle
from espnet_prune.pruning.slicing import sliced
from espnet_prune.serving.inference import InferenceEncoder

FRAMES_PER_SECOND = 100
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
        """``encoder_conf``."""
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
        name: ``stock_dense``, ``stock_autocast``, ``stock_int8``, ``dense``,
            ``compact``, or ``compact_r8`` where units are kept in multiples of 8; each
            with ``_compiled`` behind it if :func:`compiled`.
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
    size: Size, target: float | None, seconds: float, multiple: int = 1
) -> tuple[nn.Module, Callable[[int], float]]:
    """An encoder that lost random structures worth ``target`` of its MACs.

    Args:
        size: of the dense one.
        target: fraction of the MACs to remove; None: the dense one.
        seconds: length of the utterance that it counts.
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
            layout, names, about.work(encoder_clocks(frames, size.features))
        )

    own = layout.complete(torch.ones(len(layout)))
    if target is not None:
        removed = SparsityOptions(kind="macs", target=target)
        found = terms(round(seconds * FRAMES_PER_SECOND))
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
    seconds: float = 10.0,
    multiples: Sequence[int] = (1,),
) -> list[System]:
    """ESPnet's dense encoder, ours, and compact ones at every target and precision.

    Args:
        seconds: utterance whose MACs the targets count.
        multiples: compact encoders for each, with numbers of units that are multiples.
    """
    stock = ConformerEncoder(size.features, **size.conf()).to(device).eval()
    macs = compact_encoder(size, None, seconds)[1]

    def autocast(x: Tensor, lengths: Tensor) -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return stock(x, lengths)

    weights = held_bytes(stock, "fp32")
    espnets = [("stock_dense", "fp32", stock, weights)]
    if "bf16" in precisions:
        espnets.append(("stock_autocast", "bf16", autocast, weights))
    if "int8" in precisions:
        # What ESPnet's own decoder offers (quantize_asr_model).
        linear = torch.ao.quantization.quantize_dynamic(stock, {nn.Linear})
        products = (m.weight for m in stock.modules() if isinstance(m, nn.Linear))
        held = weights - 3 * sum(weight.numel() for weight in products)
        espnets.append(("stock_int8", "int8", linear, held))
    found = [
        System(name, precision, None, run, stock, size, macs, held, lambda run=run: run)
        for name, precision, run, held in espnets
    ]
    ours = [("dense", None, stock, macs)]
    for target, multiple in itertools.product(targets, multiples):
        name = "compact" if multiple == 1 else f"compact_r{multiple}"
        encoder, macs = compact_encoder(size, target, seconds, multiple)
        ours.append((name, target, encoder.to(device), macs))
    for name, target, encoder, macs in ours:
        for precision in precisions:
            fresh = partial(InferenceEncoder, encoder, size.features, precision)
            held = held_bytes(encoder, precision)
            found.append(
                System(
                    name, precision, target, fresh(), encoder, size, macs, held, fresh
                )
            )
    return found


def compiled(systems: Sequence[System], device: torch.device) -> list[System]:
    """The same systems by ``torch.compile``, on a GPU with CUDA graphs.

    It compiles for each length anew. On CPUs fp32 only: weights that are arranged for
    oneDNN or quantized are no tensors to it.
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
        if graphs or system.precision == "fp32"
    ]


def held_bytes(encoder: nn.Module, precision: str) -> int:
    """Bytes of the weights of our encoder as it holds them in a precision."""
    fp32 = {
        "fp32": ("",),
        "bf16": ("norm", "linear_pos"),
        "int8": ("norm", "bias", "linear_pos", "depthwise", "conv.0"),
    }[precision]
    narrow = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    return sum(
        p.numel() * (4 if any(part in name for part in fp32) else narrow)
        for name, p in encoder.named_parameters()
    )

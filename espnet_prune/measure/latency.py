"""What each thing in an encoder costs in seconds, on this machine.

Prunable layers are built in several sizes and timed on one utterance, interleaved; the
price of a count is what a non-negative least-squares fit says that one more of it
takes. So latency is linear in the same counts as parameters and MACs, and can be a
target as they are. How well that describes the machine stands in the table.
"""

import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import nn

from espnet_prune.encoder import PrunableConformerEncoder
from espnet_prune.errors import InputError
from espnet_prune.files import write_json
from espnet_prune.layers.attention import RelPositionAttention
from espnet_prune.layers.block import layer_norm
from espnet_prune.layers.convolution import Convolution
from espnet_prune.layers.cost import Counts, group_of
from espnet_prune.layers.feed_forward import FeedForward
from espnet_prune.layers.subsampling import Subsampling
from espnet_prune.measure.allocator import keep_freed_memory
from espnet_prune.measure.machine import cpu, describe

ROUNDS = 15
MIN_R2, MIN_RANK = 0.9, 0.9  # below: the table does not describe the machine

Task = Callable[[], object]


@dataclass(frozen=True)
class Point:
    """One layer of one size: what is in it, and how to run it."""

    counts: Counts
    run: Task


def latency_table(
    encoder: PrunableConformerEncoder, frames: int, threads: int = 1
) -> dict[str, Any]:
    """Measure the prices of an encoder's layers.

    Args:
        encoder: the dense one, for its sizes and options.
        frames: feature frames of the utterance that is timed.
        threads: that torch may use meanwhile.

    Returns:
        ``prices`` (seconds, by count), ``fit`` (by group: R2, rank correlation of
        predicted and measured time, largest error), ``points``, ``frames`` and
        ``machine``.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        machine = describe()
        points = list(_points(encoder, frames))
        seconds = _time(points)
    finally:
        torch.set_num_threads(before)
        keep_freed_memory(False)
    prices: dict[str, float] = {}
    fits = {}
    for group in dict.fromkeys(_group(point) for point in points):
        own = [i for i, point in enumerate(points) if _group(point) == group]
        fitted, fits[group] = _fit([points[i].counts for i in own], seconds[own])
        prices |= fitted
    for group, fit in fits.items():
        if fit["r2"] < MIN_R2 or fit["rank"] < MIN_RANK:
            logging.warning(
                f"latency of {group}: its sizes explain {fit['r2']:.0%} of what was "
                "measured: the machine is too busy, or too small differences matter"
            )
    return {
        "prices": prices,
        "fit": fits,
        "frames": frames,
        "machine": machine,
        "points": [
            {"counts": point.counts, "seconds": float(s)}
            for point, s in zip(points, seconds, strict=True)
        ],
    }


def read_table(path: Path) -> dict[str, Any]:
    """Read what :func:`latency_table` returned.

    Raises:
        InputError: the file is damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["prices"] and table["frames"] and table["machine"]["cpu"]:
            return table
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(path, "is no latency table", "delete it") from e
    raise InputError(path, "is no latency table", "delete it")


def read_or_measure(
    path: Path, encoder: PrunableConformerEncoder, frames: int
) -> dict[str, Any]:
    """The table at ``path``, measured first unless it is there and of this machine.

    Raises:
        InputError: the file is damaged.
    """
    if path.exists():
        table = read_table(path)
        if (table["frames"], table["machine"]["cpu"]) == (frames, cpu()["cpu"]):
            return table
        logging.warning(f"{path} is of another machine or length: measured anew")
    logging.info(f"measuring what the encoder's layers take, for {path}")
    table = latency_table(encoder, frames)
    write_json(path, table)
    return table


def table_of_run(
    run: Path, model: Path, encoder: PrunableConformerEncoder, frames: int
) -> dict[str, Any]:
    """The table that a pruning run goes by, left in its directory as ``latency.json``.

    Args:
        run: directory of the run. One that resumes keeps its table, on any machine.
        model: directory of the dense model, whose table all its runs share.
        encoder, frames: what is measured if there is none yet.
    """
    own = run / "latency.json"
    table = read_table(own) if own.exists() else None
    if table is None or table["frames"] != frames:
        table = read_or_measure(model / "latency.json", encoder, frames)
        write_json(own, table)
    return table


def _group(point: Point) -> str:
    return group_of(next(iter(point.counts)))


def _shares(number: int, shares: Sequence[float] = (0.125, 0.25, 0.5, 1)) -> list[int]:
    return sorted({max(1, round(share * number)) for share in shares})


def _points(encoder: PrunableConformerEncoder, frames: int) -> Iterator[Point]:
    """Layers of several sizes, each with its norm, on random input."""
    fixed, dense = encoder.fixed, encoder.architecture.blocks[0]
    activation = encoder.encoders[0].conv_module.activation
    features = torch.randn(1, frames, fixed.features)
    mask = torch.ones(1, 1, frames, dtype=torch.bool)
    (x, pos_emb), mask = encoder.embed(features, mask)
    norm = layer_norm(fixed.size)

    def point(counts: Counts, layer: nn.Module, *inputs: Any) -> Point:
        layer.eval()
        if not inputs:
            return Point(counts, lambda: layer(norm(x)))
        return Point(counts, lambda: layer(*inputs))

    for units in _shares(dense.ffn1):
        layer = FeedForward(fixed.size, units, 0.0, activation)
        yield point(FeedForward.counts(units, 1), layer)
    for channels in _shares(dense.conv):
        layer = Convolution(fixed.size, channels, fixed.kernel_size, activation)
        yield point(Convolution.counts(channels, 1), layer)
    widths = itertools.product(
        _shares(dense.qk_dim, (0.25, 0.5, 1)), _shares(dense.v_dim, (0.25, 0.5, 1))
    )
    numbers = _shares(dense.heads, (0.25, 0.5, 1))
    for heads, (qk, v) in itertools.product(numbers, widths):
        sizes = {"heads": heads, "qk_dim": qk, "v_dim": v, "scale_dim": fixed.head_dim}
        layer = RelPositionAttention(fixed.size, **sizes, dropout_rate=0.0)
        counts = RelPositionAttention.counts(heads, qk, v)
        yield point(counts, layer, norm(x), pos_emb, mask)
    first, second = encoder.architecture.subsampling
    for channels in itertools.product(_shares(first), _shares(second)):
        layer = Subsampling(fixed.features, fixed.size, channels, encoder.embed.out[1])
        yield point(Subsampling.counts(channels), layer, features, None)
    for repeats in (1, 2, 4):
        layer = nn.Sequential(*[norm] * repeats)
        yield point({"norm.module": repeats}, layer, x)


@torch.no_grad()
def _time(points: Sequence[Point]) -> np.ndarray:
    """Least seconds of each, all of them interleaved.

    Other work on the machine can only add to a time: the least one is disturbed least.
    """
    seconds = np.zeros((ROUNDS, len(points)))
    order, shuffle = list(range(len(points))), random.Random(0).shuffle
    for point in points:
        point.run()
    for line in seconds:
        shuffle(order)
        for index in order:
            start = time.perf_counter()
            points[index].run()
            line[index] = time.perf_counter() - start
    return seconds.min(axis=0)


def _fit(
    counts: Sequence[Counts], seconds: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Prices that explain the times of a group best, and how well they do.

    The fit weighs relative errors: a table is used for small layers, too.
    """
    names = list(counts[0])
    matrix = np.array([[float(c[name]) for name in names] for c in counts])
    # Columns scaled to 1: nnls stops at an absolute tolerance.
    scale = matrix.max(0)
    weighted = matrix / scale / seconds[:, None]
    prices = nnls(weighted, np.ones(len(seconds)))[0] / scale
    predicted = matrix @ prices
    spread = ((seconds - seconds.mean()) ** 2).sum()
    fit = {
        "r2": float(1 - ((seconds - predicted) ** 2).sum() / spread),
        "rank": float(spearmanr(predicted, seconds).statistic),
        "largest_error": float(np.abs(predicted / seconds - 1).max()),
    }
    return dict(zip(names, prices.tolist(), strict=True)), fit

"""What each thing in an encoder costs in seconds, on this machine.

Prunable layers are built in several sizes and timed on one utterance, interleaved; the
price of a count is what a non-negative least-squares fit says that one more of it
takes. So latency is linear in the same counts as parameters and MACs, and can be a
target as they are. How well that describes the machine stands in the table.
"""

import json
import logging
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_json
from espnet_prune.families.espnet.attention import sizes_of
from espnet_prune.families.espnet.model import Lengths
from espnet_prune.families.espnet.parts import halved
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.latency_layers import (
    Beyond,
    Counts,
    Point,
    decoder_points,
    encoder_points,
)
from espnet_prune.measuring.machine import cpu, describe

OWN, WAITING = "latency.json", "latency.new.json"
ROUNDS = 15
IN_A_ROW, MOST_IN_A_ROW = 0.004, 10  # seconds, and runs, of one layer at a time
MIN_R2, MIN_RANK = 0.9, 0.75  # below: the table does not describe the machine


def latency_table(
    encoder: nn.Module,
    lengths: Lengths,
    beyond: Beyond | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure the prices of an encoder's layers, and what its model does beyond it.

    Args:
        encoder: the dense one, for its sizes and options.
        lengths: of the utterance that is timed.
        beyond: to be measured, too.
        threads: that torch may use meanwhile.

    Returns:
        ``prices`` (seconds, by count), ``fit`` (by kind of layer: R2, rank correlation
        of predicted and measured time, largest error), ``points``, ``beyond`` (its
        seconds, or None), ``machine``, and ``of``: what was measured.
    """
    memory = halved(halved(lengths.frames))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        machine = describe()
        points = list(encoder_points(encoder, lengths))
        if beyond is not None:
            if beyond.pruned:
                decoder = beyond.model.decoder
                points += decoder_points(decoder, memory, beyond.tokens)
            points.append(Point({}, beyond.task(memory)))
        seconds = _time(points)
    finally:
        torch.set_num_threads(before)
        keep_freed_memory(False)
    rest = None
    if beyond is not None:
        rest = float(seconds[-1])
        points, seconds = points[:-1], seconds[:-1]
    prices: dict[str, float] = {}
    fits = {}
    for layer in dict.fromkeys(point.layer for point in points):
        own = [i for i, point in enumerate(points) if point.layer == layer]
        fitted, fits[layer] = _fit([points[i].counts for i in own], seconds[own])
        prices |= fitted
    for layer, fit in fits.items():
        if fit["r2"] < MIN_R2 or fit["rank"] < MIN_RANK:
            logging.warning(
                f"latency of {layer}: its sizes explain {fit['r2']:.0%} of what was "
                f"measured, with a rank correlation of {fit['rank']:.2f}: the machine "
                "is too busy, or too small differences matter"
            )
    return {
        "prices": prices,
        "fit": fits,
        "of": subject(encoder, lengths, beyond),
        "beyond": rest,
        "machine": machine,
        "points": [
            {"counts": point.counts, "seconds": float(s)}
            for point, s in zip(points, seconds, strict=True)
        ],
    }


def subject(
    encoder: nn.Module, lengths: Lengths, beyond: Beyond | None
) -> dict[str, Any]:
    """What a table is of, as it stands in the table."""
    block = encoder.encoders[0]
    decoder = None
    if beyond is not None and beyond.pruned:
        layer = beyond.model.decoder.decoders[0]
        units = layer.feed_forward.w_1.out_features
        heads = [sizes_of(part)[:3] for part in (layer.self_attn, layer.src_attn)]
        decoder = [layer.size, units, *map(list, heads)]
    return {
        "frames": lengths.frames,
        "encoder": {
            "features": lengths.features,
            "size": encoder.output_size(),
            "units": block.feed_forward.w_1.out_features,
            "heads": list(sizes_of(block.self_attn)[:3]),
            "kernel": block.conv_module.depthwise_conv.kernel_size[0],
        },
        "tokens": beyond.tokens if beyond is not None else None,
        "decoder": decoder,
    }


def serves(table: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether all that is asked for is in the table; more does not hurt."""
    return all(table["of"][k] == value for k, value in asked.items() if value)


def read_table(path: Path) -> dict[str, Any]:
    """Read what :func:`latency_table` returned.

    Raises:
        InputError: the file is damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["prices"] and table["of"]["frames"] and table["machine"]["cpu"]:
            return table
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(path, "is no latency table", "delete it") from e
    raise InputError(path, "is no latency table", "delete it")


def read_or_measure(
    path: Path,
    encoder: nn.Module,
    lengths: Lengths,
    beyond: Beyond | None = None,
) -> dict[str, Any]:
    """The table at ``path``, measured first unless it is there and of this machine.

    Raises:
        InputError: the file is damaged.
    """
    asked = subject(encoder, lengths, beyond)
    if path.exists():
        table = read_table(path)
        if table["machine"]["cpu"] == cpu()["cpu"] and serves(table, asked):
            return table
        logging.warning(f"{path} is of another machine, length or model: measured anew")
    logging.info(f"measuring what the model's layers take, for {path}")
    table = latency_table(encoder, lengths, beyond)
    write_json(path, table)
    return table


def table_of_run(
    run: Path,
    shared: Path | None,
    encoder: nn.Module,
    lengths: Lengths,
    beyond: Beyond | None = None,
) -> dict[str, Any]:
    """The function returns the table that a pruning run goes by.

    One that is not its own yet waits beside it, for :func:`settle_table`.

    Args:
        run: directory of the run. One that resumes keeps its table, on any machine.
        shared: file of the table that runs of this dense model share, written if it is
            not there or of another machine, length or model; None: there is none.
        encoder, lengths, beyond: what is measured if there is none yet.

    Raises:
        InputError: a table is damaged.
    """
    settle_table(run, keep=False)  # left by a start that was killed
    own = run / OWN
    if own.exists():
        table = read_table(own)
        if serves(table, subject(encoder, lengths, beyond)):
            return table
    table = read_or_measure(shared or run / WAITING, encoder, lengths, beyond)
    write_json(run / WAITING, table)
    return table


def settle_table(run: Path, keep: bool = True) -> None:
    """Make the table that waits the run's own, or drop it; if there is one."""
    if (run / WAITING).exists():
        if keep:
            (run / WAITING).replace(run / OWN)
        else:
            (run / WAITING).unlink()


@torch.no_grad()
def _time(points: Sequence[Point]) -> np.ndarray:
    """Least seconds of each, all of them interleaved.

    Other work on the machine can only add to a time: the least one is disturbed least.
    Short ones are run several times in a row, for as long as a disturbance lasts.
    """

    def once(point: Point) -> float:
        start = time.perf_counter()
        point.run()
        return time.perf_counter() - start

    order, shuffle = list(range(len(points))), random.Random(0).shuffle
    for point in points:
        point.run()
    least = np.array([once(point) for point in points])
    for _ in range(ROUNDS):
        shuffle(order)
        for index in order:
            in_a_row = min(MOST_IN_A_ROW, max(1, math.ceil(IN_A_ROW / least[index])))
            times = (once(points[index]) for _ in range(in_a_row))
            least[index] = min(least[index], *times)
    return least * [point.times for point in points]


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
    # A fit that tells no sizes apart has no order either.
    rank = spearmanr(predicted, seconds).statistic if np.ptp(predicted) > 0 else 0.0
    spread = ((seconds - seconds.mean()) ** 2).sum()
    fit = {
        "r2": float(1 - ((seconds - predicted) ** 2).sum() / spread),
        "rank": float(rank),
        "largest_error": float(np.abs(predicted / seconds - 1).max()),
    }
    return dict(zip(names, prices.tolist(), strict=True)), fit

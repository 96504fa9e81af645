"""What each thing in an encoder costs in seconds, on this machine.

Small encoders of drawn sizes, two blocks of the dense one each, run as they will be
used, by onnxruntime; they are timed on one utterance, interleaved. The price of a thing
is what a non-negative least-squares fit says that one more of it takes. So latency is
linear in the same counts as parameters and MACs, and can be a target as they are. How
well that describes the machine stands in the table.
"""

import copy
import hashlib
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import nn

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_json
from espnet_prune.config.sections import GateOptions
from espnet_prune.families.espnet.compact import architecture_of, cut
from espnet_prune.families.espnet.model import Lengths, describe
from espnet_prune.families.registry import Kind
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.machine import cpu
from espnet_prune.measuring.machine import describe as describe_machine
from espnet_prune.pruning.cost import evaluate
from espnet_prune.pruning.layout import Layout
from espnet_prune.serving.inference import write_graph
from espnet_prune.serving.onnx import Runner

OWN, WAITING = "latency.json", "latency.new.json"
ENCODERS, BLOCKS, ROUNDS = 32, 2, 15
GONE = 0.15  # share of the submodules that a drawn encoder lacks
MIN_R2, MIN_RANK = 0.9, 0.75  # below: the table does not describe the machine
Counts = dict[str, float]


def latency_table(encoder: nn.Module, kind: Kind, lengths: Lengths) -> dict[str, Any]:
    """Measure the prices of what an encoder is made of.

    Args:
        encoder: the dense one, for its sizes and options.
        kind: of encoder.
        lengths: of the utterance that is timed.

    Returns:
        ``prices`` (seconds, by thing), ``fit`` (R2, rank correlation of predicted and
        measured time, largest error), ``points``, ``machine``, and ``of``: what was
        measured.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        machine = describe_machine()
        points = drawn_encoders(encoder, kind, lengths)
        seconds = _time([run for _, run in points])
    finally:
        torch.set_num_threads(before)
        keep_freed_memory(False)
    counts = [count for count, _ in points]
    prices, fit = _fit(counts, seconds)
    if fit["r2"] < MIN_R2 or fit["rank"] < MIN_RANK:
        logging.warning(
            f"latency: the sizes of an encoder explain {fit['r2']:.0%} of what was "
            f"measured, with a rank correlation of {fit['rank']:.2f}: the machine is "
            "too busy, or too small differences matter"
        )
    return {
        "prices": prices,
        "fit": fit,
        "of": subject(encoder, lengths),
        "machine": machine,
        "points": [
            {"counts": count, "seconds": float(s)}
            for count, s in zip(counts, seconds, strict=True)
        ],
    }


def drawn_encoders(
    encoder: nn.Module, kind: Kind, lengths: Lengths
) -> list[tuple[Counts, Callable[[], object]]]:
    """Encoders of drawn sizes: what is in each, and what runs it on noise.

    Args:
        encoder, kind, lengths: as for :func:`latency_table`.
    """
    short = copy.deepcopy(encoder).eval()
    short.encoders = type(short.encoders)(*list(short.encoders)[:BLOCKS])
    model = nn.Module()
    model.encoder = copy.deepcopy(short)
    described, draw = describe(model, kind, GateOptions()), random.Random(0)
    layout = described.layout
    things = dict.fromkeys(s.thing for s in layout.structures if s.thing)
    things |= dict.fromkeys(described.things)
    by_thing = {
        thing: described.terms(lengths, {thing: 1.0})["latency"] for thing in things
    }
    noise = torch.randn(1, lengths.frames, lengths.features)
    found = []
    logging.info(f"latency: writing {ENCODERS} small encoders, which takes minutes")
    for _ in range(ENCODERS):
        own = drawn_units(layout, draw)
        small = copy.deepcopy(short)
        about = kind.describe(small, GateOptions(), gated=False)
        cut(small, about, architecture_of(layout, own))
        sums = layout.sums(own.double())
        counts = {t: float(evaluate(terms, sums)) for t, terms in by_thing.items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "encoder.onnx")
            write_graph(small, lengths.features, "fp32", file)
            found.append((counts, partial(Runner(file), noise)))
    return found


def drawn_units(layout: Layout, draw: random.Random) -> torch.Tensor:
    """(unit,) 1 for the first units of each structure, as many as are drawn."""
    own = torch.zeros(len(layout))
    for structure in layout.structures:
        rows = layout[structure.parent].size if structure.even else 1
        units = own[layout.span(structure.name)].view(rows, -1)
        size = units.shape[1]
        kept = round(size * draw.choice((0.125, 0.25, 0.5, 1)))
        if size == 1:
            kept = int(draw.random() > GONE)
        units[:, : max(kept, structure.least, size > 1)] = 1
    return layout.settled(own)


def subject(encoder: nn.Module, lengths: Lengths) -> dict[str, Any]:
    """What a table is of, as it stands in the table."""
    digest = hashlib.sha256(str(encoder).encode()).hexdigest()
    return {"frames": lengths.frames, "encoder": digest}


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
    path: Path, encoder: nn.Module, kind: Kind, lengths: Lengths
) -> dict[str, Any]:
    """The table at ``path``, measured first unless it is there and of this machine.

    Raises:
        InputError: the file is damaged.
    """
    if path.exists():
        table = read_table(path)
        same = table["of"] == subject(encoder, lengths)
        if same and table["machine"]["cpu"] == cpu()["cpu"]:
            return table
        logging.warning(f"{path} is of another machine, length or model: measured anew")
    table = latency_table(encoder, kind, lengths)
    write_json(path, table)
    return table


def table_of_run(
    run: Path, shared: Path | None, encoder: nn.Module, kind: Kind, lengths: Lengths
) -> dict[str, Any]:
    """The function returns the table that a pruning run goes by.

    One that is not its own yet waits beside it, for :func:`settle_table`.

    Args:
        run: directory of the run. One that resumes keeps its table, on any machine.
        shared: file of the table that runs of this dense model share, written if it is
            not there or of another machine, length or model; None: there is none.
        encoder, kind, lengths: what is measured if there is none yet.

    Raises:
        InputError: a table is damaged.
    """
    settle_table(run, keep=False)  # left by a start that was killed
    own = run / OWN
    if own.exists():
        table = read_table(own)
        if table["of"] == subject(encoder, lengths):
            return table
    table = read_or_measure(shared or run / WAITING, encoder, kind, lengths)
    write_json(run / WAITING, table)
    return table


def settle_table(run: Path, keep: bool = True) -> None:
    """Make the table that waits the run's own, or drop it; if there is one."""
    if (run / WAITING).exists():
        if keep:
            (run / WAITING).replace(run / OWN)
        else:
            (run / WAITING).unlink()


def _time(tasks: Sequence[Callable[[], object]]) -> np.ndarray:
    """Least seconds of each, all of them interleaved.

    Other work on the machine can only add to a time: the least one is disturbed least.
    """
    order, shuffle = list(range(len(tasks))), random.Random(0).shuffle
    least = np.full(len(tasks), np.inf)
    for _ in range(ROUNDS):
        shuffle(order)
        for index in order:
            start = time.perf_counter()
            tasks[index]()
            least[index] = min(least[index], time.perf_counter() - start)
    return least


def _fit(
    counts: Sequence[Counts], seconds: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Prices that explain the times best, and how well they do.

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

"""Measure what each thing in an encoder costs in seconds, on this machine.

Small encoders of drawn sizes, two blocks of the dense one each, run as they will be
used, by onnxruntime; they are timed on one utterance, interleaved. The price of a thing
is what a non-negative least-squares fit says that one more of it takes. So latency is
linear in the same counts as parameters and MACs, and can be a target as they are. How
well that describes the machine stands in the table.
"""

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import write_json
from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.clock import turn
from espnet_prune.measuring.machine import cpu
from espnet_prune.measuring.machine import describe as describe_machine

OWN, WAITING = "latency.json", "latency.new.json"
ROUNDS = 15
MIN_R2, MIN_RANK = 0.9, 0.75  # below: the table does not describe the machine
Counts = dict[str, float]
Point = tuple[Counts, Callable[[], object]]


class Subject(Protocol):
    """The encoder that a latency table is of."""

    def told(self) -> dict[str, Any]:
        """Say what tells the subject from others, as it stands in the table."""

    def points(self) -> list[Point]:
        """Give small encoders of drawn sizes: what is in each, and its run on noise."""


def latency_table(subject: Subject) -> dict[str, Any]:
    """Measure the prices of what an encoder is made of.

    Args:
        subject: the dense encoder, and the utterance that is timed.

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
        logging.info("latency: writing small encoders, which takes minutes")
        points = subject.points()
        seconds = _time([run for _, run in points])
    finally:
        torch.set_num_threads(before)
        keep_freed_memory(False)
    counts = [count for count, _ in points]
    prices, fit = fit_prices(counts, seconds)
    if fit["r2"] < MIN_R2 or fit["rank"] < MIN_RANK:
        logging.warning(
            f"latency: the sizes of an encoder explain {fit['r2']:.0%} of what was "
            f"measured, with a rank correlation of {fit['rank']:.2f}: the machine is "
            "too busy, or too small differences matter"
        )
    return {
        "prices": prices,
        "fit": fit,
        "of": subject.told(),
        "machine": machine,
        "points": [
            {"counts": count, "seconds": float(s)}
            for count, s in zip(counts, seconds, strict=True)
        ],
    }


def read_table(path: Path) -> dict[str, Any]:
    """Read what :func:`latency_table` returned.

    Raises:
        InputError: the file is damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["prices"] and table["of"] and table["machine"]["cpu"]:
            return table
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(path, "is no latency table", "delete it") from e
    raise InputError(path, "is no latency table", "delete it")


def read_or_measure(path: Path, subject: Subject) -> dict[str, Any]:
    """Read the table at ``path``; measure it first unless it fits subject and machine.

    Raises:
        InputError: the file is damaged.
    """
    if path.exists():
        table = read_table(path)
        same = table["of"] == subject.told()
        if same and table["machine"]["cpu"] == cpu()["cpu"]:
            return table
        logging.warning(f"{path} is of another machine, length or model: measured anew")
    table = latency_table(subject)
    write_json(path, table)
    return table


def table_of_run(run: Path, shared: Path | None, subject: Subject) -> dict[str, Any]:
    """The function returns the table that a pruning run goes by.

    One that is not its own yet waits beside it, for :func:`settle_table`.

    Args:
        run: directory of the run. One that resumes keeps its table, on any machine.
        shared: file of the table that runs of this dense model share, written if it is
            not there or of another machine, length or model; None: there is none.
        subject: what is measured if there is none yet.

    Raises:
        InputError: a table is damaged.
    """
    settle_table(run, keep=False)  # left by a start that was killed
    own = run / OWN
    if own.exists():
        table = read_table(own)
        if table["of"] == subject.told():
            return table
    table = read_or_measure(shared or run / WAITING, subject)
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
    """Measure the least seconds of each task, all of them interleaved.

    Other work on the machine can only add to a time: the least one is disturbed least.
    """
    order, numbered = random.Random(0), dict(enumerate(tasks))
    rounds = [list(turn(numbered, order).values()) for _ in range(ROUNDS)]
    return np.min(rounds, axis=0)


def fit_prices(
    counts: Sequence[Counts], seconds: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit the prices that explain the times best, and rate how well they do.

    The fit weighs relative errors: a table is used for small layers, too.

    Args:
        counts: of each encoder, by what has a price.
        seconds: that each encoder took, (encoder,).

    Returns:
        the prices in seconds, and ``r2``, the ``rank`` correlation and the
        ``largest_error`` (relative) of the times that follow from the prices.
    """
    from scipy.optimize import nnls  # not above: few targets are in latency
    from scipy.stats import spearmanr

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

"""Is the difference between two systems more than chance? A paired bootstrap.

Both systems are resampled with the same utterances (Bisani & Ney 2004), so that
hard utterances weigh equally on both sides; of few utterances nothing is claimed.
Utterances of one speaker go wrong together (Liu et al. 2020, arXiv 1912.09508): what
may happen with other speakers is told by how far speakers are apart. A test set has few
of them, and a bootstrap of few is too sure of itself: that is a t-test with
cluster-robust errors, by a jackknife, which bears speakers of unequal size best (CR3 in
Cameron & Miller 2015).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.measuring.resampling import RESAMPLES, resample

FEWEST_UTTERANCES = 30  # that a difference is judged by
FEWEST_SPEAKERS = 5  # that say anything of others
LARGEST_SHARE = 0.5  # of the words: a speaker with more of them is the test set
ROUNDING = 1e-12  # means of several runs are no whole numbers of errors


def compare(
    system: dict[str, Any],
    other: dict[str, Any],
    vs: str,
    speakers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compare two ``result.json`` of the same set.

    Args:
        system: the one under test (compact).
        other: the one it is held against (dense).
        vs: the name of ``other``, for the result and for errors.
        speakers: utterance id -> speaker, to test over these, too.

    Returns:
        ``delta`` = error rate of ``system`` minus that of ``other`` (a fraction;
        positive: ``system`` is worse; None without words), its 95 % percentile
        ``interval``, and the two-sided ``p_value`` of "no difference": twice the
        smaller share of resamples on one side of zero, counted with the observation
        itself; None for less than 30 utterances. Both for other speakers as
        ``interval_by_speaker`` and ``p_by_speaker``: None if there are fewer than five,
        or as many as utterances, if one has most of the words, or if all differ alike,
        which is no spread to judge by.

    Raises:
        InputError: other utterances or references than ``system``'s.
    """
    ours, theirs = system["utterances"], other["utterances"]
    lengths = {utt: c["n"] for utt, c in ours.items()}
    if lengths != {utt: c["n"] for utt, c in theirs.items()}:
        mend = "score both systems on the same set (stage 16)"
        raise InputError(vs, "was scored on other utterances or references", mend)
    more = np.array([errors(ours[u]) - errors(theirs[u]) for u in lengths])
    words = np.array(list(lengths.values()))
    total = int(words.sum())
    found = {
        "vs": vs,
        "delta": float(more.sum() / total) if total else None,
        "interval": None,
        "p_value": None,
        "method": f"paired bootstrap over utterances, two-sided, {RESAMPLES} resamples",
        "n_utts": len(lengths),
        "n_words": total,
        "interval_by_speaker": None,
        "p_by_speaker": None,
        "n_speakers": None,
    }
    drawn = resample(more, words) if len(lengths) >= FEWEST_UTTERANCES else None
    if drawn is None:
        return found
    interval, deltas = drawn
    tail = min((deltas <= ROUNDING).sum(), (deltas >= -ROUNDING).sum())
    p_value = min(1.0, 2 * float(tail + 1) / (RESAMPLES + 1))
    found |= {"interval": [*interval], "p_value": p_value}
    if speakers is not None:
        names, of = np.unique([speakers[utt] for utt in lengths], return_inverse=True)
        found["n_speakers"] = len(names)
        if FEWEST_SPEAKERS <= len(names) < len(lengths):
            interval, p_value = _t_test(np.bincount(of, more), np.bincount(of, words))
            found |= {"interval_by_speaker": interval, "p_by_speaker": p_value}
    return found


def _t_test(
    more: np.ndarray, words: np.ndarray
) -> tuple[list[float] | None, float | None]:
    """Compute the 95 % interval of the difference, and p, from speakers as clusters.

    Args:
        more: (speaker,) errors that one system has more than the other.
        words: (speaker,) reference words.
    """
    number, share = len(more), words / words.sum()
    if share.max() > LARGEST_SHARE:
        return None, None
    delta = more.sum() / words.sum()
    # What leaving one out changes: a large one has drawn ``delta`` to itself.
    deviation = (more / words.sum() - delta * share) / (1 - share)
    error = np.sqrt((number - 1) / number * (deviation**2).sum())
    if error < ROUNDING:
        return ([0.0, 0.0], 1.0) if abs(delta) < ROUNDING else (None, None)
    half = error * stdtrit(number - 1, 0.975)
    p_value = 2 * stdtr(number - 1, -abs(delta) / error)
    return [float(delta - half), float(delta + half)], float(p_value)


def pool(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Pool several runs of one system, with other seeds: the mean of their errors.

    Utterances, not runs, stay what is resampled: 3 runs on 100 utterances are no 300.

    Args:
        runs: their ``result.json`` of the same set.
        name: of the system, for errors.

    Returns:
        what :func:`compare` takes.

    Raises:
        InputError: the runs were scored on other utterances or references.
    """
    lengths = [{utt: c["n"] for utt, c in run["utterances"].items()} for run in runs]
    if any(own != lengths[0] for own in lengths):
        raise InputError(name, "its runs were scored on other utterances or references")
    return {
        "utterances": {
            utt: {
                kind: sum(run["utterances"][utt][kind] for run in runs) / len(runs)
                for kind in ("sub", "del", "ins", "n")
            }
            for utt in lengths[0]
        }
    }


def read_result(path: Path) -> dict[str, Any]:
    """Read a ``result.json`` of stage 16.

    Raises:
        InputError: the file is missing, or is none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["utterances"] and (result["error_rate"] or 0) >= 0:
            return result
        raise KeyError("utterances")
    except FileNotFoundError:
        raise InputError(path, "does not exist", "run stage 16") from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(path, f"is no result of scoring ({e!r})") from e


def errors(counts: dict[str, float]) -> float:
    """Count the errors of an utterance."""
    return counts["sub"] + counts["del"] + counts["ins"]


def read_speakers(path: Path, utterances: Iterable[str]) -> dict[str, str]:
    """Read the speaker of each utterance from ``utt2spk``.

    Raises:
        InputError: one has none.
    """
    table = read_table(path)
    if lost := [utt for utt in utterances if not table.get(utt)]:
        raise InputError(
            path,
            f"names no speaker of {len(lost)} utterances (first: {lost[0]})",
            "complete it",
        )
    return {utt: table[utt] for utt in utterances}

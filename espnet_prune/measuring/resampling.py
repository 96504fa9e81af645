"""Resample utterances: how far may an error rate, or a difference of two, be off?

Whole utterances are drawn with all their errors and words (Bisani & Ney 2004), those
without a reference word, too: what is inserted there is part of the rate.
"""

import numpy as np

RESAMPLES = 10_000


def resample(
    errors: np.ndarray, words: np.ndarray
) -> tuple[tuple[float, float], np.ndarray] | None:
    """Draw as many utterances as there are, again and again.

    Args:
        errors: (utterance,) of one system, or those that it has more than another.
        words: (utterance,) in the reference.

    Returns:
        The 95 % percentile interval of errors per word, and the (resample,) rates; None
        for less than two utterances, or without words.
    """
    if len(words) < 2 or not words.sum():
        return None
    from scipy.stats import bootstrap  # takes a second to import

    def rate(errors: np.ndarray, words: np.ndarray, axis: int) -> np.ndarray:
        return errors.sum(axis) / np.maximum(words.sum(axis), 1)

    result = bootstrap(
        (errors, words),
        rate,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,  # 500 x utterances at a time: a large set stays below 100 MB
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return (float(low), float(high)), result.bootstrap_distribution

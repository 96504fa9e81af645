"""Word and character error rates of one hypothesis file, with their interval.

Counting is jiwer's (unit costs); sclite's costs (4/3/3) may split the same errors
differently into substitutions, deletions and insertions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.text import comparable
from espnet_prune.measuring.resampling import RESAMPLES, resample


def decoded_in(tag: str, precision: str = "fp32") -> str:
    """Name the directory of what was decoded with a configuration and a format."""
    return tag if precision == "fp32" else f"{tag}_{precision}"


def _refuse_difference(path: str | Path, ids: set[str], what: str, mend: str) -> None:
    if ids:
        first = ", ".join(sorted(ids)[:5])
        raise InputError(path, f"{len(ids)} {what} (first: {first})", mend)


@dataclass(frozen=True)
class Pair:
    """One utterance: its id, the reference and the hypothesis."""

    utt: str
    ref: str
    hyp: str


def read_pairs(ref_path: str | Path, hyp_path: str | Path) -> list[Pair]:
    """Join reference and hypothesis by utterance id, in the reference's order.

    Both are brought to the form in which they can be compared.

    An id without words in ``hyp_path`` is an empty hypothesis: all deletions. An id
    that is absent is a decoding that broke, and scoring without it would flatter.

    Raises:
        InputError: hypotheses are missing, or belong to no reference.
    """
    refs, hyps = read_table(ref_path), read_table(hyp_path, "run stage 15")
    _refuse_difference(
        hyp_path,
        refs.keys() - hyps.keys(),
        f"of {len(refs)} utterances have no hypothesis",
        "decode again (stage 15); an empty hypothesis is a line with the id alone",
    )
    _refuse_difference(
        hyp_path,
        hyps.keys() - refs.keys(),
        f"hypotheses have no reference in {ref_path}",
        "score against the set that was decoded",
    )
    return [
        Pair(utt, comparable(ref), comparable(hyps[utt])) for utt, ref in refs.items()
    ]


def tokens(text: str, unit: str) -> list[str]:
    """Split into what is counted: words, or characters with ``<space>`` for a blank."""
    if unit == "word":
        return text.split()
    return ["<space>" if char == " " else char for char in text]


@dataclass(frozen=True)
class Counts:
    """Alignment of one utterance: ``n`` reference units = hits + sub + del."""

    n: int
    hits: int
    sub: int
    del_: int
    ins: int

    @property
    def errors(self) -> int:
        return self.sub + self.del_ + self.ins


@dataclass(frozen=True)
class Score:
    """Error rate of one system on one set.

    Attributes:
        unit: ``word`` or ``char``.
        utts: utterance ids; ``counts`` and the items of ``output`` are parallel.
        output: jiwer's result: totals, tokens and alignments.
        counts: the errors per utterance.
        ci95: 95 % interval of the error rate (fractions); None of one utterance, or
            without words.
    """

    unit: str
    utts: list[str]
    output: jiwer.WordOutput
    counts: list[Counts]
    ci95: tuple[float, float] | None

    @property
    def n_units(self) -> int:
        return sum(c.n for c in self.counts)

    @property
    def rate(self) -> float | None:
        """Return the errors per reference unit; None where there are none of these."""
        return self.output.wer if self.n_units else None

    @property
    def told(self) -> str:
        """Write the rate in percent, and its interval, as far as there are any."""
        if self.rate is None:
            return "-"
        rate = f"{100 * self.rate:.2f} %"
        if self.ci95 is None:
            return rate
        low, high = (100 * limit for limit in self.ci95)
        return f"{rate} ({low:.2f} - {high:.2f})"

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``result.json``; rates are fractions."""
        out = self.output
        return {
            "unit": self.unit,
            "error_rate": self.rate,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "ci_method": f"bootstrap over utterances, {RESAMPLES} resamples, "
            "percentiles (Bisani & Ney 2004)",
            "n_utts": len(self.utts),
            "n_units": self.n_units,
            "hits": out.hits,
            "sub": out.substitutions,
            "del": out.deletions,
            "ins": out.insertions,
            "wrong_utts": sum(c.errors > 0 for c in self.counts),
            "utterances": {
                utt: {k.rstrip("_"): v for k, v in asdict(c).items()}
                for utt, c in zip(self.utts, self.counts, strict=True)
            },
        }


def _count(chunks: list[jiwer.AlignmentChunk]) -> Counts:
    size = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for chunk in chunks:
        size[chunk.type] += max(
            chunk.ref_end_idx - chunk.ref_start_idx,
            chunk.hyp_end_idx - chunk.hyp_start_idx,
        )
    hits, sub, del_ = size["equal"], size["substitute"], size["delete"]
    return Counts(hits + sub + del_, hits, sub, del_, size["insert"])


def score(pairs: list[Pair], unit: str) -> Score:
    """Align every pair and count."""
    refs, hyps = (
        [" ".join(tokens(text, unit)) for text in side]
        for side in zip(*((pair.ref, pair.hyp) for pair in pairs), strict=True)
    )
    output = jiwer.process_words(refs, hyps)
    counts = [_count(chunks) for chunks in output.alignments]
    drawn = resample(
        np.array([c.errors for c in counts]), np.array([c.n for c in counts])
    )
    ci95 = None if drawn is None else drawn[0]
    return Score(unit, [pair.utt for pair in pairs], output, counts, ci95)

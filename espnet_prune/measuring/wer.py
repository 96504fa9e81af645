"""Word and character error rates of one hypothesis file, with their interval.

Counting is jiwer's (unit costs); sclite's costs (4/3/3) may split the same errors
differently into substitutions, deletions and insertions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import kaldialign

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table

UNITS = {"wer": "word", "cer": "char"}  # score_<key>/ holds rates over this unit


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
        Pair(utt, " ".join(ref.split()), " ".join(hyps[utt].split()))
        for utt, ref in refs.items()
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
        ci95: 95 % interval of the error rate (fractions).
    """

    unit: str
    utts: list[str]
    output: jiwer.WordOutput
    counts: list[Counts]
    ci95: tuple[float, float]

    @property
    def n_units(self) -> int:
        return sum(c.n for c in self.counts)

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``result.json``; rates are fractions."""
        out = self.output
        return {
            "unit": self.unit,
            "error_rate": out.wer,
            "ci95": list(self.ci95),
            "ci_method": "bootstrap over utterances, mean -+ 1.96 std "
            "(Bisani & Ney 2004; kaldialign)",
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
    """Align every pair and count; the interval resamples utterances 10 000 times.

    Raises:
        InputError: the references hold no word at all.
    """
    refs = [tokens(pair.ref, unit) for pair in pairs]
    hyps = [tokens(pair.hyp, unit) for pair in pairs]
    if not any(refs):
        raise InputError("reference", "holds no word", "score a transcribed set")
    output = jiwer.process_words(
        [" ".join(ref) for ref in refs], [" ".join(hyp) for hyp in hyps]
    )
    # Utterances without a reference word would make a resample of nothing else
    # divide by zero; their insertions belong to the rate, so they ride on a neighbour.
    interval = kaldialign.bootstrap_wer_ci(*_without_empty(refs, hyps), seed=0)
    # The normal approximation can reach below zero where errors are few.
    ci95 = (max(0.0, interval["ci95min"]), interval["ci95max"])
    utts = [pair.utt for pair in pairs]
    return Score(unit, utts, output, [_count(c) for c in output.alignments], ci95)


def _without_empty(
    refs: list[list[str]], hyps: list[list[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Join every pair with an empty reference to the pair before (or after) it."""
    joined: list[tuple[list[str], list[str]]] = []
    for ref, hyp in zip(refs, hyps, strict=True):
        if joined and not (ref and joined[-1][0]):
            joined[-1] = (joined[-1][0] + ref, joined[-1][1] + hyp)
        else:
            joined.append((ref, hyp))
    return [ref for ref, _ in joined], [hyp for _, hyp in joined]

"""Format sclite-style text: trn files, the summary line and the aligned utterances."""

from collections.abc import Iterable, Iterator

import jiwer

from espnet_prune.measuring.wer import Score

GAP = "***"


def trn(utts: Iterable[str], texts: Iterable[list[str]]) -> str:
    """Format NIST trn lines, ``TOKENS (utterance id)``, as sclite reads them."""
    pairs = zip(utts, texts, strict=True)
    return "".join(" ".join([*toks, f"({utt})"]) + "\n" for utt, toks in pairs)


def _columns(
    ref: list[str], hyp: list[str], chunks: list[jiwer.AlignmentChunk]
) -> Iterator[tuple[str, str, str]]:
    """Yield (reference, hypothesis, S/D/I or blank) per aligned position."""
    for c in chunks:
        refs = ref[c.ref_start_idx : c.ref_end_idx]
        hyps = hyp[c.hyp_start_idx : c.hyp_end_idx]
        width = max(len(refs), len(hyps))
        mark = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}[c.type]
        refs += [GAP] * (width - len(refs))
        hyps += [GAP] * (width - len(hyps))
        yield from zip(refs, hyps, [mark] * width, strict=True)


def _utterance(score: Score, i: int) -> str:
    ref, hyp = score.output.references[i], score.output.hypotheses[i]
    columns = list(_columns(ref, hyp, score.output.alignments[i]))
    widths = [max(map(len, column)) for column in columns]
    ref_line, hyp_line, eval_line = (
        " ".join(c[row].ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip()
        for row in range(3)
    )
    c = score.counts[i]
    return (
        f"id: ({score.utts[i]})\n"
        f"Scores: (#C #S #D #I) {c.hits} {c.sub} {c.del_} {c.ins}\n"
        f"REF:  {ref_line}\nHYP:  {hyp_line}\nEval: {eval_line}\n"
    )


def _summary(score: Score) -> str:
    """Format the ``Sum/Avg`` row that ESPnet's ``show_asr_result.sh`` looks for."""
    out, n = score.output, score.n_units
    wrong = sum(c.errors > 0 for c in score.counts) / len(score.counts)
    errors = out.substitutions + out.deletions + out.insertions
    rates = [out.hits, out.substitutions, out.deletions, out.insertions, errors]
    cells = "".join(f"{100 * x / max(n, 1):7.1f}" for x in rates)
    cells += f"{100 * wrong:7.1f}"
    rule = "|" + "-" * 10 + "+" + "-" * 17 + "+" + "-" * 43 + "|\n"
    head = "  # Snt    # Wrd |   Corr    Sub    Del    Ins    Err  S.Err |\n"
    return (
        f"Error rate over {score.unit}s, with its 95 % interval: {score.told}\n\n"
        f"| SPKR     |{head}{rule}"
        f"| Sum/Avg  |{len(score.utts):7d} {n:8d} |{cells} |\n"
    )


def alignment_report(score: Score) -> str:
    """Format ``result.txt``: the summary table, then every utterance aligned."""
    utterances = [_utterance(score, i) for i in range(len(score.utts))]
    return "\n".join([_summary(score), *utterances])

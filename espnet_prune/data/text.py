"""One form of a transcript, whatever wrote it.

Training text and references have composed letters (one character for a letter with its
accent, where macOS writes two: NFC, where that is shorter) and single blanks: no-break,
ideographic and narrow blanks, tabs and Unicode's line ends are blanks. Error rates
compare both sides as SentencePiece writes them besides (its ``nmt_nfkc``), for a BPE
model cannot write full-width letters, ligatures or blanks of no width. Marks, which
are ``<noise>``, ``[laughter]`` and ``(uh)``, are words as all others, or dropped or
refused, as stage 3 is told.
"""

import logging
import re
import unicodedata
from functools import cache
from pathlib import Path

from espnet_prune.base.errors import InputError

# Beside ``text``, of ESPnet's ``s2t.sh``: what was said before, and what CTC learns.
MORE_TEXTS = "text.prev", "text.ctc"

MARKS = "keep", "drop", "refuse"  # what can be done about them
# Brackets that stand alone, or beside each other, with what they hold.
_MARK = re.compile(r"(?<!\S)(?:(?:<[^<>]*>|\[[^][]*\]|\([^()]*\))[.,;:!?]*)+(?!\S)")


def normalized(words: str) -> str:
    """Return a transcript in the form in which it is trained on and scored against."""
    return " ".join(map(_composed, words.split()))


def comparable(words: str) -> str:
    """Return a reference or a hypothesis in the form in which the two are compared."""
    return normalized(_sentencepiece().Normalize(normalized(words)))


def _composed(word: str) -> str:
    """Compose a word; some letters of Indic scripts would come apart, and stay."""
    composed = unicodedata.normalize("NFC", word)
    return composed if len(composed) <= len(word) else word


def settle_marks(path: Path, text: dict[str, str], how: str) -> dict[str, str]:
    """Keep or drop the marks of all transcripts, and count them in the log.

    Args:
        path: the table that holds the transcripts, for messages.
        text: utterance id -> words, in the order of the table.
        how: one of :data:`MARKS`.

    Returns:
        utterance id -> words; "" where there was nothing but marks, and they are
        dropped.

    Raises:
        InputError: there are some, and they are to be refused.
    """
    without, count, examples = {}, 0, []
    for number, (utterance, words) in enumerate(text.items(), 1):
        left, found = _MARK.subn("", words)
        without[utterance] = normalized(left)
        if found:
            count += found
            examples.append(f"line {number}: {_MARK.search(words)[0]}")
    if not examples:
        return text
    if how == "refuse":
        line = examples[0].split(":")[0].removeprefix("line ")
        what = f"{len(examples)} transcripts hold marks ({'; '.join(examples[:3])})"
        mend = "take them out, or give --marks keep or drop (--format_args)"
        raise InputError(f"{path}:{line}", what, mend)
    done = "dropped" if how == "drop" else "kept as words"
    told = f"{count} marks in {len(examples)} transcripts are {done}"
    logging.info(f"{path}: {told} ({'; '.join(examples[:3])})")
    return without if how == "drop" else text


@cache
def _sentencepiece():
    import sentencepiece  # only scoring needs it

    return sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")

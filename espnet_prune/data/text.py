"""One form of a transcript, whatever wrote it.

Training text and references have composed letters (one character for a letter with its
accent, where macOS writes two: NFC, where that is shorter) and single blanks: no-break,
ideographic and narrow blanks, tabs and Unicode's line ends are blanks. Error rates
compare both sides as SentencePiece writes them besides (its ``nmt_nfkc``), for a BPE
model cannot write full-width letters, ligatures or blanks of no width. ``<noise>``,
``[laughter]``, ``(uh)`` are words as all others.
"""

import unicodedata
from functools import cache

# Beside ``text``, of ESPnet's ``s2t.sh``: what was said before, and what CTC learns.
MORE_TEXTS = "text.prev", "text.ctc"


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


@cache
def _sentencepiece():
    import sentencepiece  # only scoring needs it

    return sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")

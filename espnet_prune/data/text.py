"""One form of a transcript, whatever wrote it.

Training text and references have composed letters (one character for a letter with its
accent, where macOS writes two: NFC, where that is shorter) and single blanks: no-break,
ideographic and narrow blanks, tabs and Unicode's line ends are blanks. Error rates
compare both sides in NFKC besides, for a BPE model writes full-width letters and
ligatures as plain ones. ``<noise>``, ``[laughter]``, ``(uh)`` are words as all others.
"""

import unicodedata

# Beside ``text``, of ESPnet's ``s2t.sh``: what was said before, and what CTC learns.
MORE_TEXTS = "text.prev", "text.ctc"


def normalized(words: str) -> str:
    """Return a transcript in the form in which it is trained on and scored against."""
    return " ".join(map(_composed, words.split()))


def comparable(words: str) -> str:
    """Return a reference or a hypothesis in the form in which the two are compared."""
    return normalized("".join(map(_plain, words)))


def _composed(word: str) -> str:
    """Compose a word; some letters of Indic scripts would come apart, and stay."""
    composed = unicodedata.normalize("NFC", word)
    return composed if len(composed) <= len(word) else word


def _plain(character: str) -> str:
    """Fold a character; an accent that stands alone would become a blank, and stays."""
    folded = unicodedata.normalize("NFKC", character)
    return character if " " in folded and not character.isspace() else folded

"""One form of a transcript, whatever wrote it.

Training text and references are NFC (a letter with its accent is one character, where
macOS writes two) with single blanks: no-break, ideographic and narrow blanks, tabs and
Unicode's line ends are blanks, characters without width are nothing. Error rates
compare both sides in NFKC besides, for a BPE model writes full-width letters and
ligatures as plain ones. ``<noise>``, ``[laughter]``, ``(uh)`` are words as all others.
"""

import unicodedata

_NOTHING = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def normalized(words: str) -> str:
    """Return a transcript in the form in which it is trained on and scored against."""
    composed = unicodedata.normalize("NFC", words.translate(_NOTHING))
    return " ".join(composed.split())


def comparable(words: str) -> str:
    """Return a reference or a hypothesis in the form in which the two are compared."""
    return normalized(unicodedata.normalize("NFKC", words))

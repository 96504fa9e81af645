"""The metrics of recognizers: error rates over words and over characters.

One of them leads: systems are told apart by it. Where words are not parted by blanks, a
"word" is a whole sentence, and characters are what the field counts.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

# What the names of letters begin with in scripts that do not part words.
UNPARTED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: of its column in a report.
        counted: what errors are counted over: ``word`` or ``char``.
    """

    name: str
    counted: str

    @property
    def folder(self) -> str:
        """Name the directory of its scores beside the hypotheses."""
        return f"score_{self.name.lower()}"


METRICS = (Metric("WER", "word"), Metric("CER", "char"))


def leading(texts: Iterable[str]) -> Metric:
    """Return the metric that systems are told apart by.

    Args:
        texts: references.

    Returns:
        CER if most letters are of scripts that do not part words, and words of several
        letters show that the texts do not either; otherwise WER.
    """
    words, letters, unparted = 0, 0, 0
    for text in texts:
        words += len(text.split())
        own = [char for char in text if char.isalpha()]
        letters += len(own)
        unparted += sum(unicodedata.name(c, "").startswith(UNPARTED) for c in own)
    wer, cer = METRICS
    return cer if 2 * unparted > letters and letters >= 2 * words else wer

"""Strings of single words: how often a recording is used, and how long they are."""

from pathlib import Path

import numpy as np

from espnet_prune.data.strings import Word, join_strings


def test_each_recording_is_used_as_often_as_asked():
    words = [Word(Path(f"{i}.wav"), "ONE") for i in range(24)]
    strings = join_strings(np.random.default_rng(0), words, 4, longest=7)
    assert {len(string) for string in strings} == set(range(2, 8))
    uses = [word for string in strings for word in string]
    assert max(uses.count(word) for word in words) == 4
    # A single recording left over in a permutation is not spoken.
    assert len(uses) >= 4 * (len(words) - 1)

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from espnet_prune.base.errors import InputError
from espnet_prune.measuring.significance import compare, pool, read_speakers
from espnet_prune.measuring.wer import Pair, score


def result(wrong: set[int], n: int = 60) -> dict:
    """Utterances of four words; those in ``wrong`` have one substitution."""
    hyps = ["A B C X" if i in wrong else "A B C D" for i in range(n)]
    pairs = [Pair(f"u{i}", "A B C D", hyp) for i, hyp in enumerate(hyps)]
    return score(pairs, "word").as_json()


def test_clearly_worse_is_significant():
    found = compare(result(set(range(40))), result({50}), "dense")
    assert found["delta"] == pytest.approx(39 / 240)
    assert found["interval"][0] > 0
    assert found["p_value"] < 0.001
    assert (found["vs"], found["n_utts"], found["n_words"]) == ("dense", 60, 240)


def test_identical_and_balanced_are_not():
    same = compare(result({1, 2}), result({1, 2}), "dense")
    assert (same["delta"], same["p_value"]) == (0.0, 1.0)
    balanced = compare(result({1, 2, 3}), result({4, 5, 6}), "dense")
    assert balanced["p_value"] > 0.5


def test_symmetric_and_repeatable():
    few, many = result({1, 2, 3}), result(set(range(3, 12)))
    one, other = compare(many, few, "x"), compare(few, many, "x")
    assert one == compare(many, few, "x")
    assert one["delta"] == -other["delta"]
    assert one["p_value"] == pytest.approx(other["p_value"], abs=0.02)


def test_what_one_speaker_does_says_little_of_others():
    # All that is worse is one speaker of six: chance, of another speaker.
    one, none = result(set(range(10))), result(set())
    speakers = {f"u{i}": f"s{i // 10}" for i in range(60)}
    found = compare(one, none, "x", speakers)
    assert found["p_value"] < 0.01 and found["interval"][0] > 0
    assert found["n_speakers"] == 6 and found["p_by_speaker"] > 0.3
    low, high = found["interval_by_speaker"]
    assert low < 0 and high > found["interval"][1]
    # As many errors in each: whose they are does not matter.
    even = {i for i in range(60) if i % 6 == 0 and i < 50} | {55}
    assert compare(result(even), none, "x", speakers)["p_by_speaker"] < 0.01
    without = {k: v for k, v in found.items() if "speaker" not in k}
    assert without.items() <= compare(one, none, "x").items()


def test_by_speaker_is_a_t_test_where_all_say_equally_much():
    wrong = [0, 1, 2, 2, 5, 4]  # of ten utterances of four words, each
    system = result({10 * s + i for s, n in enumerate(wrong) for i in range(n)})
    speakers = {f"u{i}": f"s{i // 10}" for i in range(60)}
    found = compare(system, result(set()), "x", speakers)
    test = ttest_1samp([n / 40 for n in wrong], 0)
    assert found["p_by_speaker"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert found["interval_by_speaker"] == pytest.approx(list(interval))
    same = compare(system, system, "x", speakers)
    assert same["p_by_speaker"] == 1 and same["interval_by_speaker"] == [0, 0]


@pytest.mark.parametrize(("size", "number"), [(15, 4), (1, 60)])
def test_too_few_speakers_or_one_of_each_utterance_say_nothing(size, number):
    speakers = {f"u{i}": f"s{i // size}" for i in range(60)}
    found = compare(result({1}), result({2}), "x", speakers)
    assert found["n_speakers"] == number
    assert found["p_by_speaker"] is None and found["interval_by_speaker"] is None


def counts(more: list[int], words: list[int]) -> dict:
    """One utterance for each: its errors and words."""
    kinds = {"del": 0, "ins": 0}
    own = zip(more, words, strict=True)
    table = {f"u{i}": {"sub": m, "n": n} | kinds for i, (m, n) in enumerate(own)}
    return {"utterances": table}


def test_by_speaker_leaves_out_one_after_the_other():
    """Of unequal size, in any order, some of them not in the set."""
    generator = np.random.default_rng(0)
    words = generator.integers(1, 30, 40)
    fewer = generator.integers(0, 4, 40)
    of = np.repeat(np.arange(5), [2, 5, 6, 10, 17])
    speakers = {f"u{i}": f"s{of[i]}" for i in reversed(range(40))} | {"other": "sx"}
    other = counts(list(fewer), list(words))
    found = compare(counts([0] * 40, list(words)), other, "x", speakers)

    def difference(mask):
        return -fewer[mask].sum() / words[mask].sum()

    delta = difference(of >= 0)
    apart = [difference(of != speaker) - delta for speaker in range(5)]
    error = np.sqrt(4 / 5 * np.square(apart).sum())
    assert found["delta"] == pytest.approx(delta) and delta < 0
    assert found["n_speakers"] == 5
    assert found["p_by_speaker"] == pytest.approx(2 * t.sf(-delta / error, 4))
    half = error * t.ppf(0.975, 4)
    assert found["interval_by_speaker"] == pytest.approx([delta - half, delta + half])
    turned = {"utterances": dict(reversed(other["utterances"].items()))}
    assert compare(counts([0] * 40, list(words)), turned, "x", speakers) == found


@pytest.mark.parametrize(
    ("more", "words"),
    [([1, 0] * 5, [8] * 10), ([1, 0, 2, 1, 0, 1, 0, 0, 0, 1], [60, *[5] * 9])],
    ids=["all differ alike", "one has most of the words"],
)
def test_speakers_that_are_no_sample_give_no_p(more, words):
    speakers = {f"u{i}": f"s{i % 10 // 2}" for i in range(30)}
    system, other = counts(more * 3, words * 3), counts([0] * 30, words * 3)
    found = compare(system, other, "x", speakers)
    assert found["n_speakers"] == 5
    assert found["p_by_speaker"] is None and found["interval_by_speaker"] is None


def test_p_is_two_sided():
    worse, better = set(range(10)), {50, 51, 52, 53}
    found = compare(result(worse), result(better), "x")
    # (10 - 4) / sqrt(10 + 4) standard deviations from none
    assert found["p_value"] == pytest.approx(0.109, abs=0.03)


def test_means_of_runs_that_differ_by_rounding_only_are_equal():
    def pooled(substituted, deleted):
        kinds = zip(substituted, deleted, strict=True)
        runs = [{"sub": s, "del": d, "ins": 0, "n": 7} for s, d in kinds]
        return pool(
            [{"utterances": {f"u{i}": run for i in range(40)}} for run in runs], ""
        )

    one, other = pooled([1, 0, 0], [1, 2, 1]), pooled([2, 2, 1], [0, 0, 0])
    assert 1 / 3 + 4 / 3 != 5 / 3
    for pair in ((one, other), (other, one)):
        found = compare(*pair, "b", {f"u{i}": f"s{i % 5}" for i in range(40)})
        assert found["p_value"] == found["p_by_speaker"] == 1


@pytest.mark.parametrize("line", ["", "u1\n"])
def test_utterance_without_a_speaker_is_named(tmp_path, line):
    (tmp_path / "utt2spk").write_text(f"u0 s\n{line}")
    with pytest.raises(InputError, match="/utt2spk: .* of 1 utterances .first: u1"):
        read_speakers(tmp_path / "utt2spk", ["u0", "u1"])
    assert read_speakers(tmp_path / "utt2spk", ["u0"]) == {"u0": "s"}


def test_other_utterances_are_refused():
    with pytest.raises(InputError, match="other utterances"):
        compare(result(set(), n=5), result(set(), n=6), "exp/dense")


@pytest.mark.parametrize("n", [1, 2, 29])
def test_of_few_utterances_nothing_is_claimed(n):
    speakers = {f"u{i}": f"s{i % 6}" for i in range(n)}
    found = compare(result(set(range(n)), n=n), result(set(), n=n), "x", speakers)
    assert found["delta"] == 0.25 and found["n_utts"] == n
    for name in ("interval", "p_value", "interval_by_speaker", "p_by_speaker"):
        assert found[name] is None
    enough = compare(result(set(range(30)), n=30), result(set(), n=30), "x")
    assert enough["p_value"] < 0.01


def test_without_words_there_is_no_difference():
    silent = counts([1] * 40, [0] * 40)
    found = compare(silent, counts([0] * 40, [0] * 40), "x")
    assert found["delta"] is None and found["p_value"] is None


def test_pooled_runs_are_their_mean_and_no_more_utterances():
    one, two, other = result({1, 2}), result(set(range(20))), result({5})
    pooled = compare(pool([one, two], "a"), pool([other], "b"), "b")
    alone = [compare(run, other, "b")["delta"] for run in (one, two)]
    assert pooled["delta"] == pytest.approx(sum(alone) / 2)
    assert (pooled["n_utts"], pooled["n_words"]) == (60, 240)
    # Repeating a run is no evidence.
    once, thrice = (compare(pool([two] * n, ""), other, "b") for n in (1, 3))
    assert once["p_value"] == thrice["p_value"] < 1
    assert once["interval"] == pytest.approx(thrice["interval"])
    with pytest.raises(InputError, match="scored on other utterances"):
        pool([one, result(set(), n=5)], "--of")

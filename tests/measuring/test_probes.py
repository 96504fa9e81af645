"""Probes of frozen features: what they count, on sounds that log mel tells apart."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertModel

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import write_table
from espnet_prune.measuring.probes.features import System, frames, read_set
from espnet_prune.measuring.probes.queries import average_precision, distances
from espnet_prune.measuring.probes.tasks import (
    TASKS,
    Probe,
    equal_error_rate,
)
from tests.families.test_speech_encoders import BASE, TINY

TONES = {"a": 0.05, "b": 0.2, "c": 0.5}  # radians per sample


@pytest.fixture
def sounds(tmp_path):
    """``sounds(name, texts, speakers)``: a Kaldi directory; a tone for each character,
    a speaker's own hum below all."""

    def make(name, texts, speakers=("s",)):
        folder = tmp_path / name
        folder.mkdir()
        draw = np.random.default_rng(len(name))
        tables = {"wav.scp": {}, "text": {}, "utt2spk": {}}
        for i, (text, speaker) in enumerate(
            zip(texts, itertools.cycle(speakers), strict=False)
        ):
            pieces = []
            for character in text:
                length = int(draw.integers(2400, 4000))
                time = np.arange(length) + draw.integers(100)
                pieces.append(0.3 * np.sin(TONES[character] * time))
                pieces.append(np.zeros(800))
            samples = np.concatenate(pieces) + 0.01 * draw.standard_normal(
                sum(map(len, pieces))
            )
            hum = 0.8 + 0.3 * (sum(map(ord, speaker)) % 7)
            samples += 0.2 * np.sin(hum * np.arange(len(samples)))
            key = f"{speaker}-{i:03d}"
            soundfile.write(folder / f"{key}.wav", samples, 16000)
            tables["wav.scp"][key] = f"{folder}/{key}.wav"
            tables["text"][key] = text
            tables["utt2spk"][key] = speaker
        for table, rows in tables.items():
            write_table(folder / table, rows)
        return folder

    return make


def test_states_beyond_half_precision_are_refused(sounds):
    data = read_set(sounds("a", "ab"), "text")
    model = HubertModel(HubertConfig(**TINY, **BASE)).eval()
    with torch.no_grad():
        model.encoder.layers[-1].final_layer_norm.weight.fill_(1e6)
    with pytest.raises(InputError, match="states reach .* half precision"):
        frames(System(model, True), data.audio)


def run(kind, train, test, seeds=2):
    table = TASKS[kind].table
    return TASKS[kind].run(
        System(None, False), read_set(train, table), read_set(test, table), seeds
    )


def test_words_and_speakers_are_told_apart(sounds):
    train = sounds("train", ["ab", "bc", "ca"] * 8, "pqr")
    test = sounds("test", ["ab", "bc", "ca"] * 4, "pqr")
    for kind in ("words", "speakers"):
        found = run(kind, train, test)
        assert found["value"] == 100 and found["ci"] == [100, 100]
        assert found["layers"] == [1.0] and found["by_seed"] == [100, 100]


def test_speakers_that_were_never_heard_are_verified(sounds):
    train = sounds("train", ["a", "b", "c", "ab"] * 8, "pqr")
    test = sounds("test", ["a", "b", "c", "ab"] * 4, "tuv")
    found = run("verify", train, test)
    assert found["value"] < 20 and found["ci"][0] <= found["ci"][1]
    with pytest.raises(InputError, match="speaker 'p' is in the training set, too"):
        run("verify", train, train)
    with pytest.raises(InputError, match="no speaker twice"):
        run("verify", train, sounds("once", ["a", "b"], "tu"))
    with pytest.raises(InputError, match="has one label"):
        run("verify", sounds("alone", ["a", "b"], "p"), test)


def test_interval_of_few_speakers_is_not_of_draws_that_say_nothing(sounds):
    train = sounds("train", ["a", "b", "c", "ab"] * 8, "pqr")
    found = run("verify", train, sounds("two", ["a", "b", "c", "ab"] * 4, "tu"))
    low, high = found["ci"]
    assert low <= found["value"] <= high


def test_characters_are_spelled(sounds):
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abc"), 1 + i % 4)) for i in range(160)]
    found = run("characters", sounds("train", texts[:120]), sounds("test", texts[120:]))
    assert found["value"] < 10
    assert found["ci"][0] <= found["value"] <= found["ci"][1]


def test_words_are_found_again(sounds):
    train, test = (sounds(n, ["ab", "bc", "ca"] * 20) for n in ("train", "test"))
    found = run("queries", train, test)
    assert found["value"] > 95 and found["layer"] == 0
    few = sounds("few", ["ab", "bc", "ca"] * 4)  # half of them are queries
    assert run("queries", few, few)["value"] > 90


def test_warping_finds_the_cheapest_path():
    """Held against all paths, walked one by one."""
    draw = torch.Generator().manual_seed(0)
    queries = [torch.randn(n, 5, generator=draw) for n in (1, 3, 4)]
    documents = [torch.randn(n, 5, generator=draw) for n in (2, 4)]

    def cheapest(local, i, j):
        if i < 0 or j < 0:
            return np.inf
        here = local[i, j]
        if i == j == 0:
            return 2 * here
        one = min(cheapest(local, i - 1, j), cheapest(local, i, j - 1))
        return here + min(one, cheapest(local, i - 1, j - 1) + here)

    found = distances(queries, documents)
    for (a, query), (b, document) in itertools.product(
        enumerate(queries), enumerate(documents)
    ):
        cosine = torch.nn.functional.cosine_similarity
        local = 1 - cosine(query[:, None], document[None], dim=-1).numpy()
        best = cheapest(local, len(query) - 1, len(document) - 1)
        np.testing.assert_allclose(
            found[a, b], best / (len(query) + len(document)), rtol=1e-5
        )


def test_rates_are_those_of_a_textbook():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    same = np.array([1, 1, 0, 1, 0, 0], bool)
    assert equal_error_rate(score, same) == pytest.approx(1 / 3)
    assert equal_error_rate(score, score > 0.55) == 0
    for order in (same, same[::-1]):  # what cannot be told apart is a coin's flip
        assert equal_error_rate(np.ones(6), order) == 0.5
    far = np.array([0.1, 0.2, 0.3, 0.4])
    right = np.array([1, 0, 1, 0], bool)
    assert average_precision(far, right) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("words:a", "is not NAME=KIND:TRAIN:TEST"),
        ("x=sing:a:b", "no kind 'sing' -> one of: words"),
        ("words:nowhere:nowhere", "nowhere: holds no wav.scp"),
    ],
)
def test_what_is_no_probe_is_named(text, told):
    with pytest.raises(InputError, match=told):
        Probe.parse(text)


def test_label_that_no_training_set_has_is_named(sounds):
    train, test = sounds("train", ["a", "b"]), sounds("test", ["a", "c"])
    with pytest.raises(InputError, match="label 'c' is in no training set"):
        run("words", train, test)

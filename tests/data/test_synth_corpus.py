"""Stage 1: ``synth``, spoken on the spot."""

import logging

import numpy as np
import pytest
import soundfile
import synth_data

from espnet_prune.base.errors import InputError
from espnet_prune.data.espeak import Voice, speak
from espnet_prune.data.kaldi_dir import read_data_dir
from espnet_prune.data.synth import SPOKEN, VARIANTS, WORDS, Recipe, make_utterance

SMALL = ("--train", 20, "--dev", 3, "--test", 6)


def test_synth_is_the_same_for_a_seed_whatever_nj(cli, tmp_path, monkeypatch, digests):
    for name, options in {
        "one": ("--nj", 1),
        "two": ("--nj", 2),
        "other": ("--seed", 7),
    }.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cli("synth_data", *SMALL, *options)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert one == two
    assert len([name for name in one if name.endswith(".wav")]) == 29
    assert one.keys() != digests(tmp_path / "other").keys()


def test_synth_utterance_depends_on_nothing_before_it():
    recipes = [Recipe(1, subset, i, 0.0, 20.0) for subset in VARIANTS for i in range(6)]
    first = {r: make_utterance(r).samples.tobytes() for r in recipes}
    for recipe in np.random.default_rng(0).permutation(np.arange(len(recipes))):
        recipe = recipes[recipe]
        assert make_utterance(recipe).samples.tobytes() == first[recipe], recipe


def test_synth_voices_are_disjoint_between_sets(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("synth_data", *SMALL)
    variants = {}
    for name in ("train", "dev", "test"):
        data = read_data_dir(f"data/synth_{name}")
        assert all(u.startswith(s) for u, s in data.speakers.items())
        variants[name] = {s.split("_")[0] for s in data.speakers.values()}
        assert variants[name] <= set(VARIANTS[name])
        for path in data.wav.values():
            info = soundfile.info(path)
            assert info.samplerate == 16000 and 0.3 < info.duration < 10
    everything = [v for names in VARIANTS.values() for v in names]
    assert len(everything) == len(set(everything))


def test_every_synth_voice_speaks():
    for variant in (v for names in VARIANTS.values() for v in names):
        samples, fs = speak("seven", Voice(f"en+{variant}"))
        assert len(samples) > 0.2 * fs and np.abs(samples).max() > 0.02, variant


def test_no_two_synth_words_sound_the_same():
    voice = Voice("en-us+m1")
    words = sorted({word for kind in WORDS.values() for word in kind})
    spoken = [speak(SPOKEN.get(w, w.lower()), voice)[0].tobytes() for w in words]
    assert len(set(spoken)) == len(words)


def test_synth_noise_follows_the_snr_range():
    """Quiet stretches at the edges are as loud as the noise: far below at 40 dB."""
    ratios = {}
    for snr in (0.0, 40.0):
        edges, wholes = [], []
        for i in range(8):
            samples = make_utterance(Recipe(3, "train", i, snr, snr)).samples
            edges.append(np.square(samples[:600]).mean())
            wholes.append(np.square(samples).mean())
        ratios[snr] = 10 * np.log10(np.median(np.array(wholes) / np.array(edges)))
    assert ratios[0.0] < 10 < 25 < ratios[40.0]


def test_synth_is_kept_until_its_options_change(cli, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    small = ("--train", 2, "--dev", 1, "--test", 1)
    cli("synth_data", *small)
    assert "kept" not in caplog.text
    cli("synth_data", *small)
    assert "kept" in caplog.text
    caplog.clear()
    cli("synth_data", *small, "--snr_high", 20)
    assert "kept" not in caplog.text


@pytest.mark.parametrize(
    "options", [("--train", 0), ("--snr_low", 99), ("--seed", -1)], ids=str
)
def test_synth_bad_options(cli, tmp_path, options):
    with pytest.raises(InputError, match=options[0]):
        cli("synth_data", "--out", tmp_path, *options)


def test_missing_espeak_is_an_input_error_from_a_worker_too(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(synth_data.VARIANTS, "train", ["nobody"])
    with pytest.raises(InputError, match="nobody: espeak-ng has no such voice"):
        cli("synth_data", "--out", tmp_path, *SMALL, "--nj", 2)
    assert not list(tmp_path.iterdir())

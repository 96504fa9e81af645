"""A synthetic corpus: random commands, spelled letters and digits, in noise.

Every utterance is a function of (seed, set, index) alone: of nothing that was made
before it, nor of how many processes make the corpus.
"""

from dataclasses import dataclass

import numpy as np
import soxr

from espnet_prune.data.espeak import Voice, speak

FS = 16000

# espeak-ng's variants, each in one set. Left out: whispers, robots and effects, and
# all that use its Klatt synthesizer, which does not repeat itself from run to run.
VARIANTS = {
    "train": "m1 m2 m3 m6 m7 f1 f2 f4 Alicia Andy Annie Mike edward john".split(),
    "dev": "m4 f5 Andrea linda".split(),
    "test": "m5 m8 f3 Michael Marco max robert travis".split(),
}
ACCENT = "en-us"

VERBS = "OPEN CLOSE CALL START STOP TURN".split()
NOUNS = "WINDOW DOOR LIGHT MUSIC CAMERA NUMBER".split()
PLACES = "UP DOWN LEFT RIGHT".split()
DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Where espeak-ng reads the bare letter as a word: the article, the pronoun.
# ("ay" will not do for A: espeak-ng says "eye".)
SPOKEN = {"A": "eigh", "I": "eye"}

# What a sentence is made of: V(erb), N(oun), P(lace), D(igit), L(etter).
# The short ones matter: CTC learns to align on them, long before it does on the rest.
TEMPLATES = tuple(
    (
        "L D V N LL DD LD DL VN VP NP LLL DDD VNP VND VNL "
        "VNDD VNPDD VNLLD VPNLD VLLDD VLLLDD VNPVN VPVNDD LLLLL LLLLLL LLLDDD LLDDDD "
        "DDDDD DDDDDD DDDDDDD NLLD NDDLL VNVN VNPLL"
    ).split()
)
WORDS = {"V": VERBS, "N": NOUNS, "P": PLACES, "D": DIGITS, "L": LETTERS}

# Words in the babble that an utterance is mixed with.
_BABBLE_WORDS = 8
_BABBLE_VOICES = 2
# Resampling stretches the formants as a longer or shorter vocal tract would: a
# variant alone always has the same ones, and a dozen voices do not teach a model
# much about others.
_TRACTS = (0.88, 1.14)
# Level of the finished utterance, dB of full scale.
_LEVELS = (-32.0, -18.0)


@dataclass(frozen=True)
class Recipe:
    """The choice of an utterance to make.

    Attributes:
        seed: of the corpus.
        subset: "train", "dev" or "test": decides the voices.
        index: number of the utterance in its set, from 0.
        snr_low, snr_high: signal-to-noise ratio in dB, drawn evenly from between.
        templates: of its sentences.
    """

    seed: int
    subset: str
    index: int
    snr_low: float
    snr_high: float
    templates: tuple[str, ...] = TEMPLATES


@dataclass(frozen=True)
class Utterance:
    """A finished utterance.

    Attributes:
        key: utterance id; begins with ``speaker``, as Kaldi wants it.
        speaker: the voice, ``variant_accent``.
        text: uppercase words.
        samples: float32 (time,) at :data:`FS`.
    """

    key: str
    speaker: str
    text: str
    samples: np.ndarray


def make_utterance(recipe: Recipe) -> Utterance:
    """Make one utterance of the corpus.

    Raises:
        InputError: espeak-ng is missing.
    """
    stream = list(VARIANTS).index(recipe.subset)
    rng = np.random.default_rng([recipe.seed, stream, recipe.index])
    voice, tract = _draw_voice(rng, recipe.subset)
    words = _draw_words(rng, recipe.templates)
    # The pause of a comma after some words; none elsewhere, as in running speech.
    pauses = rng.random(len(words)) < rng.choice([0.0, 0.25, 0.6])
    spoken = _say(words, pauses, voice, tract)
    lead, tail = rng.integers(FS // 20, FS // 4, size=2)
    clean = np.pad(spoken, (lead, tail))
    if rng.random() < 0.3:
        clean = _add_echo(rng, clean)
    noise = _draw_noise(rng, len(clean), recipe.subset)
    snr = rng.uniform(recipe.snr_low, recipe.snr_high)
    # The speech's power is that of the spoken part: padding does not dilute it.
    gain = _rms(spoken) / max(_rms(noise), 1e-8) * 10 ** (-snr / 20)
    samples = _set_level(clean + gain * noise, rng.uniform(*_LEVELS))
    accent, variant = voice.name.split("+")
    speaker = f"{variant}_{accent}"
    return Utterance(
        f"{speaker}-{recipe.subset}{recipe.index:05d}",
        speaker,
        " ".join(words),
        samples.astype(np.float32),
    )


def _draw_voice(rng: np.random.Generator, subset: str) -> tuple[Voice, float]:
    """Draw a voice, and the length of its vocal tract against the variant's own."""
    voice = Voice(
        name=f"{ACCENT}+{rng.choice(VARIANTS[subset])}",
        rate=int(rng.integers(140, 181)),
        pitch=int(rng.integers(30, 71)),
        pitch_range=int(rng.integers(25, 76)),
        word_gap=int(rng.integers(6, 18)),
    )
    return voice, float(rng.uniform(*_TRACTS))


def _draw_words(rng: np.random.Generator, templates: tuple[str, ...]) -> list[str]:
    return [str(rng.choice(WORDS[kind])) for kind in str(rng.choice(templates))]


def _say(
    words: list[str], pauses: np.ndarray, voice: Voice, tract: float
) -> np.ndarray:
    text = " ".join(
        SPOKEN.get(word, word.lower()) + ("," if pause else "")
        for word, pause in zip(words, pauses, strict=True)
    )
    samples, fs = speak(text, voice)
    # espeak-ng ends with a silence of its own.
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
    return soxr.resample(samples, fs, FS * tract, quality="HQ")


def _add_echo(rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """Add a few decaying reflections, as of a small room."""
    wet = samples.copy()
    for _ in range(rng.integers(2, 6)):
        delay = int(rng.integers(FS // 100, FS // 12))
        wet[delay:] += rng.uniform(0.05, 0.3) * samples[:-delay]
    return wet


def _draw_noise(rng: np.random.Generator, length: int, subset: str) -> np.ndarray:
    """Draw noise, (length,), of any level: white, pink, or other voices of the set."""
    kind = rng.choice(["white", "pink", "babble"])
    if kind == "white":
        return rng.standard_normal(length)
    if kind == "pink":
        # A power of two: the transform of an unlucky length is far slower.
        spectrum = np.fft.rfft(rng.standard_normal(1 << length.bit_length()))
        falling = spectrum / np.sqrt(np.arange(len(spectrum)) + 1.0)
        return np.fft.irfft(falling)[:length]
    babble = np.zeros(length)
    for _ in range(_BABBLE_VOICES):
        words = [str(w) for w in rng.choice(VERBS + NOUNS + DIGITS, _BABBLE_WORDS)]
        speech = _say(words, np.zeros(len(words)), *_draw_voice(rng, subset))
        # A voice once forwards, once backwards: more talkers for the same time.
        for talker in (speech, speech[::-1]):
            shifted = np.roll(talker, rng.integers(len(talker)))
            babble += np.resize(shifted, length) / max(_rms(talker), 1e-8)
    return babble


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _set_level(samples: np.ndarray, level: float) -> np.ndarray:
    """Scale to ``level`` dB of full scale, or to what does not clip if lower."""
    gain = 10 ** (level / 20) / max(_rms(samples), 1e-8)
    return samples * min(gain, 0.99 / max(np.abs(samples).max(), 1e-8))

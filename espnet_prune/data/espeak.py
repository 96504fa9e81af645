"""Make speech from text by the espeak-ng library that ``espeakng_loader`` ships."""

import _ctypes
import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_prune.base.errors import InputError

# Values of espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_DONT_EXIT = 0x8000
_BUFFER_MS = 200

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """The voice of one utterance, and how it speaks.

    Attributes:
        name: espeak-ng name, ``accent+variant``, as ``en-us+m3``.
        rate: words per minute (espeak's default is 175).
        pitch: 0 to 100 (50 is the variant's own pitch).
        pitch_range: 0 (monotone) to 100 (50 is the variant's own).
        word_gap: pause between words, in 10 ms at the default rate.
    """

    name: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0


def speak(text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """Speak ``text`` (UTF-8; punctuation makes pauses) with ``voice``.

    Returns:
        The samples, float32 (time,) in [-1, 1], and their rate in Hz. The same
        arguments give the same samples, whatever was spoken before.

    Raises:
        InputError: the library or the voice is missing.
    """
    try:
        import espeakng_loader

        lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
    except (ImportError, OSError, RuntimeError) as e:
        raise InputError(
            "espeakng_loader",
            f"the espeak-ng library cannot be loaded ({e})",
            "install the packages of requirements.txt, or choose another corpus",
        ) from None
    try:
        return _speak(lib, data, text, voice)
    finally:
        # espeak-ng keeps state in static variables (noise, pitch and formant
        # tracks) that even espeak_Terminate leaves: only a freshly loaded library
        # makes an utterance independent of what this process spoke before.
        _ctypes.dlclose(lib._handle)


def _speak(
    lib: ctypes.CDLL, data: str, text: str, voice: Voice
) -> tuple[np.ndarray, int]:
    chunks: list[np.ndarray] = []

    def collect(samples, count: int, _events) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    # ctypes does not keep the callback alive: this name does.
    callback = _SynthCallback(collect)
    fs = lib.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data.encode(), _DONT_EXIT
    )
    if fs <= 0:
        raise InputError(
            data,
            "espeak-ng does not find its voice data here",
            "install espeakng-loader again, under a path of less than 150 letters",
        )
    try:
        lib.espeak_SetSynthCallback(callback)
        lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        # espeak-ng itself passes silently over a variant that it does not have.
        variant = Path(data, "voices", "!v", voice.name.partition("+")[2])
        if not variant.exists() or lib.espeak_SetVoiceByName(voice.name.encode()):
            raise InputError(
                voice.name,
                "espeak-ng has no such voice",
                "choose one of those that espeakng_loader ships",
            )
        for parameter, value in (
            (_RATE, voice.rate),
            (_VOLUME, 100),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
            (_WORD_GAP, voice.word_gap),
        ):
            lib.espeak_SetParameter(parameter, value, 0)
        text_bytes = text.encode() + b"\0"
        lib.espeak_Synth(
            text_bytes, ctypes.c_size_t(len(text_bytes)), 0, _POS_CHARACTER, 0,
            _CHARS_UTF8, None, None,
        )  # fmt: skip
        lib.espeak_Synchronize()
    finally:
        lib.espeak_Terminate()
    samples = np.concatenate(chunks or [np.zeros(0, np.int16)])
    return samples.astype(np.float32) / 32768.0, fs

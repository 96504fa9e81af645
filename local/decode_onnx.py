#!/usr/bin/env python3
"""Decode WAV files with onnxruntime alone: python3 local/decode_onnx.py MODEL WAV...

MODEL is what ``python -m espnet_prune.bin.export_onnx EXP`` writes. Needs onnxruntime
and numpy, and neither torch nor ESPnet: copy it to where the model is to run.
"""

import json
import sys
import wave

import numpy as np
import onnxruntime


def read(path: str, rate: int) -> np.ndarray:
    """Mono 16-bit audio, (1, sample) in [-1, 1]."""
    with wave.open(path) as f:
        if (f.getnchannels(), f.getsampwidth(), f.getframerate()) != (1, 2, rate):
            raise ValueError(f"must be mono, 16 bits, {rate} Hz")
        samples = np.frombuffer(f.readframes(f.getnframes()), np.int16)
    if len(samples) < rate // 5:
        raise ValueError("is shorter than a fifth of a second")
    return samples[None].astype(np.float32) / 32768


def text_of(log_probs: np.ndarray, tokens: list[str], token_type: str) -> str:
    """CTC's best path: the best token of each frame, repeats and blanks dropped."""
    best = log_probs[0].argmax(-1)
    changed = np.append(True, best[1:] != best[:-1])
    path = [tokens[i] for i in best[changed & (best != 0)]]
    gap = {"bpe": "▁", "char": "<space>"}.get(token_type)
    return " ".join(path) if gap is None else "".join(path).replace(gap, " ").strip()


if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    session = onnxruntime.InferenceSession(
        sys.argv[1], providers=["CPUExecutionProvider"]
    )
    about = session.get_modelmeta().custom_metadata_map
    rate = int(about["sampling_rate"])
except Exception as e:  # of onnxruntime, or another program's model
    sys.exit(f"error: {sys.argv[1]}: is no model of export_onnx ({e})")
for path in sys.argv[2:]:
    try:
        speech = read(path, rate)
    except (OSError, EOFError, ValueError, wave.Error) as e:
        sys.exit(f"error: {path}: {str(e) or 'is no WAV file'}")
    (log_probs,) = session.run(["log_probs"], {"speech": speech})
    print(path, text_of(log_probs, json.loads(about["tokens"]), about["token_type"]))

#!/usr/bin/env python3
"""Decode WAV files with onnxruntime and numpy: python3 decode.py MODEL.onnx WAV...

The tokens are in ``tokens.txt`` beside the model, one a line; the first is CTC's blank.
"""

import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime

if len(sys.argv) < 3:
    sys.exit(__doc__)
model, *files = sys.argv[1:]
try:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    rate, longest = int(about["sampling_rate"]), int(about["longest_seconds"])
    between = about["between_tokens"]
    tokens = Path(model).with_name("tokens.txt").read_text("utf-8").split("\n")[:-1]
except Exception as e:  # of onnxruntime, or another program's model
    sys.exit(f"error: {model}: is no model of export_onnx ({e})")
for path in files:
    try:
        with wave.open(path) as f:
            if (f.getnchannels(), f.getsampwidth(), f.getframerate()) != (1, 2, rate):
                raise ValueError(f"must be mono, 16 bits, {rate} Hz")
            samples = np.frombuffer(f.readframes(f.getnframes()), np.int16)
        if len(samples) < rate // 5:
            raise ValueError("is shorter than a fifth of a second")
        if (seconds := len(samples) / rate) > longest:
            raise ValueError(f"lasts {seconds:.0f} s: cut it to {longest} at most")
    except (OSError, EOFError, ValueError, wave.Error) as e:
        sys.exit(f"error: {path}: {str(e) or 'is no WAV file'}")
    speech = samples[None].astype(np.float32) / 32768  # (1, sample) in [-1, 1]
    try:
        best = session.run(["log_probs"], {"speech": speech})[0][0].argmax(-1)
    except Exception as e:  # of onnxruntime
        sys.exit(f"error: {path}: {seconds:.0f} s may be too long, cut it ({e})")
    changed = np.append(True, best[1:] != best[:-1])  # CTC: repeats and blanks go
    text = between.join(tokens[i] for i in best[changed & (best != 0)])
    print(path, text.replace("▁", " ").replace("<space>", " ").strip())

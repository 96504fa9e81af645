"""Models for onnxruntime: from audio to the CTC's log probabilities, in one file."""

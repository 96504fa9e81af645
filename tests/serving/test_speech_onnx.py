"""Self-supervised encoders, dense and compact, as ONNX files."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from espnet_prune.cli import ssl_onnx
from espnet_prune.families.ssl.model import read
from espnet_prune.serving import speech_onnx as exporting
from tests.families.test_speech_encoders import CASES


@pytest.mark.parametrize("case", ["hubert_large", "wavlm_base"])
def test_runtime_gives_the_states_of_all_layers_or_is_refused(
    case, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    CASES[case]().save_pretrained(tmp_path)
    ssl_onnx.main([str(tmp_path), "--int8"])
    audio = torch.randn(3, 2345)
    with torch.no_grad():
        found = read(tmp_path)(audio, output_hidden_states=True)
    wanted = [*found.hidden_states[:-1], found.last_hidden_state]
    for file, near in (("model.onnx", 1e-4), ("model.int8.onnx", 0.2)):
        run = onnxruntime.InferenceSession(tmp_path / file)
        outputs = run.run(None, {"audio": audio.numpy()})
        for own, state in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(own, state.numpy(), atol=near, rtol=0)
    # The file of another model, as a faulty exporter would write it.
    other = tmp_path / "other.onnx"
    (tmp_path / "model.onnx").rename(other)
    CASES[case]().save_pretrained(tmp_path)

    def write(_model, _audio, file, *_more):
        shutil.copy(other, file)

    monkeypatch.setattr(exporting, "write_onnx", write)
    with pytest.raises(RuntimeError, match="outputs in fp32 differ by"):
        ssl_onnx.main([str(tmp_path)])
    assert not (tmp_path / "model.onnx").exists()

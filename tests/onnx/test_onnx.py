"""ONNX: the graph's parts against ESPnet's, and a file against the model."""

import builtins
import subprocess
import sys
import wave
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.cli import export_onnx
from espnet_prune.export.onnx_graph import EncoderGraph, LogMel, Normalize, Recognizer
from espnet_prune.export.onnx_write import open_onnx, runtime
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.serving.greedy import GreedyDecoder
from espnet_prune.serving.load import InferenceEncoder

DECODER = Path(__file__).resolve().parents[2] / "local" / "decode_onnx.py"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_fft": 512, "win_length": 400, "hop_length": 160},
        {"n_fft": 256, "win_length": 201, "hop_length": 80, "fs": 8000, "n_mels": 20},
        {"center": False, "win_length": 399},
        {"window": None, "n_fft": 128, "hop_length": 64, "n_mels": 10},
        {"window": "hamming", "fmin": 100, "fmax": 7000, "htk": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [2000, 2161, 8192])
def test_features_are_espnets(options, samples):
    frontend = DefaultFrontend(**options).eval()
    speech = 0.1 * torch.randn(2, samples)
    expected, _ = frontend(speech, torch.tensor([samples] * 2))
    torch.testing.assert_close(LogMel(frontend)(speech), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("means", [True, False])
@pytest.mark.parametrize("variances", [True, False])
@pytest.mark.parametrize("kind", ["utterance", "global"])
def test_normalisation_is_espnets(kind, means, variances, tmp_path):
    if kind == "utterance":
        layer = UtteranceMVN(means, variances)
    else:
        seen = torch.randn(50, 4, dtype=torch.double).numpy() + 1
        sums = {"sum": seen.sum(0), "sum_square": (seen**2).sum(0)}
        np.savez(tmp_path / "stats.npz", count=len(seen), **sums)
        layer = GlobalMVN(tmp_path / "stats.npz", means, variances)
    x = torch.randn(2, 30, 4) + 3
    expected, _ = layer(x.clone(), torch.tensor([30, 30]))
    torch.testing.assert_close(Normalize(layer)(x), expected)
    assert torch.equal(Normalize(None)(x), x)


@settings(max_examples=25)
@given(st.data())
def test_graph_computes_what_the_encoder_does(
    drawn_sizes, make_encoder, random_masks, compact_of, batch, data
):
    gates = {"model_dim": data.draw(st.booleans())}
    gated = make_encoder(**data.draw(drawn_sizes), gates=gates).eval()
    gated.set_masks(random_masks(gated, seed=data.draw(st.integers(0, 99))))
    # In double precision: a norm of one or two channels makes much of rounding.
    compact = compact_of(gated).eval()
    graph, compact = EncoderGraph(compact).double(), compact.double()
    x, lengths = batch((data.draw(st.integers(7, 60)),) * data.draw(st.integers(1, 2)))
    with torch.no_grad():
        expected, actual = compact(x.double(), lengths)[0], graph(x.double())
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def weights(compact, tmp_path_factory):
    """Weights of a compact model whose CTC head hears many tokens in noise."""
    state = torch.load(compact / "pruned.pth")
    # As it was before the test models were shaken: a filterbank of positive filters.
    conf = yaml.safe_load((compact / "config.yaml").read_text())["frontend_conf"]
    state["frontend.logmel.melmat"] = DefaultFrontend(**conf).logmel.melmat
    head = state["ctc.ctc_lo.weight"]
    state["ctc.ctc_lo.weight"] = torch.randn(
        head.shape, generator=torch.Generator().manual_seed(3)
    )
    path = tmp_path_factory.mktemp("weights") / "pruned.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def exported(compact, weights, tmp_path_factory):
    """The ONNX files of that model: fp32, int8."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    argv = [str(compact), "--model", str(weights), "--out", str(path), "--int8"]
    export_onnx.main(argv)
    return path, path.with_suffix(".int8.onnx")


def test_files_give_espnets_outputs_at_any_length(exported, compact, weights):
    model, _ = load_model(compact / "config.yaml", weights)
    features = LogMel(model.frontend)
    few = 7 * features.hop + len(features.basis)
    audio = [0.1 * torch.randn(n, k) for n, k in ((1, few), (1, 30000), (3, 9999))]
    exact, rough = (
        export_onnx.differences(open_onnx(path), model, audio) for path in exported
    )
    assert max(exact) < 1e-4
    assert rough[0] == exact[0] and 1e-4 < rough[1] < 0.1  # int8 is no copy
    # By ESPnet's own way from audio to log probabilities.
    for speech in audio:
        with torch.no_grad():
            encoded, _ = model.encode(
                speech, torch.tensor([speech.shape[1]] * len(speech))
            )
            expected = model.ctc.log_softmax(encoded)
        actual = open_onnx(exported[0]).run(["log_probs"], {"speech": speech.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(actual[0]), expected, atol=1e-3, rtol=1e-3
        )
    assert exported[1].stat().st_size < exported[0].stat().st_size


def test_wav_is_decoded_without_torch_or_espnet(exported, compact, weights, tmp_path):
    model, _ = load_model(compact / "config.yaml", weights)
    samples = np.random.default_rng(0).integers(-9000, 9000, 24000, dtype=np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as f:
        f.setparams((1, 2, 16000, 0, "NONE", ""))
        f.writeframes(samples.tobytes())
    speech = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    model.encoder = InferenceEncoder(model.encoder, "fp32")
    ((ids, _),) = GreedyDecoder(model)([speech[0]])
    tokens = [model.token_list[i] for i in ids]
    assert len(tokens) > 3
    text = "".join(tokens).replace("<space>", " ").replace("▁", " ").strip()
    code = (
        "import sys; sys.modules.update(torch=None, espnet2=None, espnet_prune=None); "
    )
    code += f"exec(open({str(DECODER)!r}).read())"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(file), str(tmp_path / "a.wav")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for file in exported
    ]
    assert outputs[0] == f"{tmp_path / 'a.wav'} {text}\n"
    assert SequenceMatcher(None, *outputs).ratio() > 0.9  # of a random model, in int8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"fLaC" * 9, "does not start with RIFF"),
        (b"", "is no WAV file"),
    ],
)
def test_decoder_names_the_file_that_is_wrong(exported, tmp_path, content, told):
    wav = tmp_path / "a.wav"
    if content is not None:
        wav.write_bytes(content)
    command = [sys.executable, str(DECODER), str(exported[0]), str(wav)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_cannot_be_exported_is_named(make_model, pruned, tmp_path):
    without_ctc = make_model(model_conf={"ctc_weight": 0.0})
    with pytest.raises(InputError, match="has no CTC head"):
        Recognizer(without_ctc)
    other = make_model()
    other.preencoder = torch.nn.Identity()
    with pytest.raises(InputError, match="its preencoder cannot be exported"):
        Recognizer(other)
    with pytest.raises(InputError, match="is a pruning run -> export it first"):
        export_onnx.main([str(pruned), "--model", str(pruned / "latest.pth")])
    with pytest.raises(InputError, match="is a directory"):
        export_onnx.main(
            [str(pruned), "--model", str(pruned / "latest.pth"), "--out", str(tmp_path)]
        )
    with pytest.raises(InputError, match="frontend_conf cannot be exported"):
        LogMel(DefaultFrontend(frontend_conf={"use_wpe": True}))
    with pytest.raises(InputError, match="normalized cannot be exported"):
        LogMel(DefaultFrontend(normalized=True))
    with pytest.raises(InputError, match="Linear cannot be exported"):
        Normalize(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="missing: no such directory"):
        export_onnx.weights_of(tmp_path / "missing")
    with pytest.raises(InputError, match="holds none of finetuned.pth"):
        export_onnx.weights_of(tmp_path)


def test_file_whose_outputs_differ_is_not_left_behind(compact, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "write_onnx", lambda *a: a[2].write_text("new"))
    monkeypatch.setattr(export_onnx, "open_onnx", lambda *_: None)
    monkeypatch.setattr(export_onnx, "differences", lambda *_: (0.0, float("nan")))
    path = tmp_path / "model.onnx"
    path.write_text("older")
    argv = [str(compact), "--model", str(compact / "pruned.pth"), "--out", str(path)]
    with pytest.raises(InputError, match="differ from ESPnet's by 0 .*and nan"):
        export_onnx.main(argv)
    assert path.read_text() == "older"


def test_missing_onnxruntime_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "onnxruntime":
            raise ImportError("no", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="onnxruntime is not installed"):
        runtime()

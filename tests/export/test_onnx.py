"""ONNX: the graph's parts against ESPnet's, and a file against the model."""

import builtins
import os
import re
import shutil
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
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
from espnet_prune.export.recognizer import LogMel, Normalize, Recognizer
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.graph import EncoderGraph
from espnet_prune.serving.greedy import GreedyDecoder, collapse
from espnet_prune.serving.onnx import Runner, runtime
from tests.fixtures.encoders import NEEDED, SIZES
from tests.fixtures.gated import CASES, RUN, drawn_sizes, drawn_values


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


@given(
    case=st.sampled_from(RUN),
    data=st.data(),
    seed=st.integers(0, 99),
    lengths=st.sampled_from([(7,), (60,), (31, 31)]),
)
@settings(max_examples=25)
@torch.no_grad()
def test_graph_computes_what_the_encoder_does(case, data, seed, lengths):
    """In double precision: a norm of one or two channels makes much of rounding."""
    gated = CASES[case].make(seed, **data.draw(drawn_sizes(case)))
    compact = gated.compact(drawn_values(gated.layout, seed, 0.5, 0.5)).eval()
    x, lengths = gated.inputs(*(max(n, gated.least) for n in lengths))
    expected, actual = compact(x, lengths)[0], EncoderGraph(compact).double()(x)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(make_dense):
    """A model without a block, submodules and channels; its CTC head hears much."""
    sizes = {"heads": 3, "qk_dim": 2, "v_dim": 4, "conv": 5, "ffn1": 7, "ffn2": 0}
    architecture = {
        "subsampling": [5, 9],
        "blocks": [sizes | {"heads": 0, "qk_dim": 0, "v_dim": 0}, None, sizes],
        "dims": [0, 1, 2, 3, 5, 8, 9, 10, 11, 15],
    }
    conf = SIZES | NEEDED | {"num_blocks": 3, "architecture": architecture}
    folder = make_dense(encoder="prunable_conformer", encoder_conf=conf)
    state = torch.load(folder / "model.pth")
    # A filterbank of positive filters, which those of tests are not.
    own = yaml.safe_load((folder / "config.yaml").read_text())["frontend_conf"]
    state["frontend.logmel.melmat"] = DefaultFrontend(**own).logmel.melmat
    torch.save(state, folder / "model.pth")
    model, _ = load_model(folder / "config.yaml", folder / "model.pth")
    noise = 0.1 * torch.randn(1, 24000)
    with torch.no_grad():
        usual = model.encode(noise, torch.tensor([24000]))[0].mean(1)[0]
    draw = torch.Generator().manual_seed(3)
    head = torch.randn(state["ctc.ctc_lo.weight"].shape, generator=draw)
    state |= {"ctc.ctc_lo.weight": head, "ctc.ctc_lo.bias": -head @ usual}
    torch.save(state, folder / "finetuned.pth")
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    """The ONNX files of that model: fp32, int8."""
    export_onnx.main([str(folder)])
    return folder / "onnx/model.onnx", folder / "onnx/model.int8.onnx"


@pytest.fixture
def model(folder):
    return load_model(folder / "config.yaml", folder / "finetuned.pth")[0]


def test_files_give_espnets_outputs_at_any_length(exported, model):
    features = LogMel(model.frontend)
    few = 7 * features.hop + len(features.basis)
    audio = [0.1 * torch.randn(n, k) for n, k in ((1, few), (1, 30000), (3, 9999))]
    exact, rough = (
        export_onnx.differences(Runner(path), model, audio) for path in exported
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
        actual = Runner(exported[0])(speech)
        torch.testing.assert_close(
            torch.from_numpy(actual[0]), expected, atol=1e-3, rtol=1e-3
        )
    assert exported[1].stat().st_size < exported[0].stat().st_size


@pytest.fixture(scope="module")
def cpp(exported, tmp_path_factory):
    """The example in C++, compiled; its headers are in no package of this project."""
    headers = os.environ.get("ONNXRUNTIME_INCLUDE")
    if headers is None or shutil.which("g++") is None:
        pytest.skip("needs g++ and ONNXRUNTIME_INCLUDE, the include/ of a release")
    folder = tmp_path_factory.mktemp("cpp")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    source = exported[0].with_name("decode.cpp")
    command = ["g++", "-std=c++17", source, f"-I{headers}", f"-L{folder}"]
    options = ["-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", folder / "decode"]
    subprocess.run([*command, *options], check=True)
    return folder / "decode"


@pytest.fixture
def programs(request, exported):
    """``programs(language)``: the command that decodes, without torch or ESPnet."""

    def command(language):
        if language == "c++":
            return [str(request.getfixturevalue("cpp"))]
        code = "import sys; sys.modules.update(torch=None, espnet2=None); "
        code += f"exec(open({str(exported[0].with_name('decode.py'))!r}).read())"
        return [sys.executable, "-c", code]

    return command


@pytest.mark.parametrize("language", ["python", "c++"])
def test_wav_is_decoded_without_torch_or_espnet(
    exported, model, programs, language, tmp_path
):
    samples = np.random.default_rng(0).integers(-9000, 9000, 24000, dtype=np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as f:
        f.setparams((1, 2, 16000, 0, "NONE", ""))
        f.writeframes(samples.tobytes())
    speech = samples.astype(np.float32) / 32768
    heard = []
    for file in exported:
        command = [*programs(language), str(file), str(tmp_path / "a.wav")]
        output = subprocess.run(command, capture_output=True, text=True, check=True)
        scores, _ = Runner(file)(torch.from_numpy(speech[None]))
        heard.append(collapse(torch.from_numpy(scores[0]).argmax(-1), model.blank_id))
        tokens = "".join(model.token_list[i] for i in heard[-1])
        text = tokens.replace("<space>", " ").replace("▁", " ").strip()
        assert output.stdout == f"{tmp_path / 'a.wav'} {text}\n"
    ids, _ = GreedyDecoder(model)(torch.from_numpy(speech))
    assert heard[0] == ids and len(set(ids)) > 3


def wav_file(rate=16000, channels=1, width=2, seconds=1.0):
    """The bytes of a WAV file, with a chunk before its samples."""
    size = round(rate * seconds) * channels * width
    form = (1, channels, rate, rate * channels * width, channels * width, 8 * width)
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *form)
    head += b"LIST" + struct.pack("<I", 3) + b"odd\0"
    head += b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(head) + size) + head + bytes(size)


@pytest.mark.parametrize("language", ["python", "c++"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (wav_file(), None),
        (None, "[nN]o such file"),
        (b"fLaC" * 9, "does not start with RIFF|is no WAV file"),
        (b"", "is no WAV file"),
        (wav_file(rate=8000), "must be mono, 16 bits, 16000 Hz"),
        (wav_file(channels=2), "must be mono, 16 bits, 16000 Hz"),
        (wav_file(width=1), "must be mono, 16 bits, 16000 Hz"),
        (wav_file(seconds=0.1), "is shorter than a fifth of a second"),
        (wav_file(seconds=601), "lasts 601 s: cut it to 600 at most"),
    ],
    ids=range(9),
)
def test_decoder_names_the_file_that_is_wrong(
    exported, programs, language, tmp_path, content, told
):
    wav = tmp_path / "a.wav"
    if content is not None:
        wav.write_bytes(content)
    command = [*programs(language), str(exported[0]), str(wav)]
    result = subprocess.run(command, capture_output=True, text=True)
    if told is None:
        assert result.returncode == 0 and str(wav) in result.stdout
        return
    assert result.returncode == 1 and re.search(told, result.stderr)
    assert len(result.stderr.splitlines()) == 1 and str(wav) in result.stderr


def test_what_cannot_be_exported_is_named(make_model, pruned, tmp_path):
    without_ctc = make_model(model_conf={"ctc_weight": 0.0})
    with pytest.raises(InputError, match="has no CTC head"):
        Recognizer(without_ctc)
    other = make_model()
    other.preencoder = torch.nn.Identity()
    with pytest.raises(InputError, match="its preencoder cannot be exported"):
        Recognizer(other)
    with pytest.raises(InputError, match="frontend_conf cannot be exported"):
        LogMel(DefaultFrontend(frontend_conf={"use_wpe": True}))
    with pytest.raises(InputError, match="normalized cannot be exported"):
        LogMel(DefaultFrontend(normalized=True))
    with pytest.raises(InputError, match="Linear cannot be exported"):
        Normalize(torch.nn.Linear(2, 2))
    run = [str(pruned), "--model", str(pruned / "latest.pth")]
    with pytest.raises(InputError, match="is a pruning run -> export it first"):
        export_onnx.main(run)
    with pytest.raises(InputError, match="is no folder of this program"):
        export_onnx.main([*run, "--out", str(tmp_path)])
    with pytest.raises(InputError, match="missing: no such directory"):
        export_onnx.weights_of(tmp_path / "missing")
    with pytest.raises(InputError, match="holds none of finetuned.pth"):
        export_onnx.weights_of(tmp_path)


def test_file_whose_outputs_differ_is_not_left_behind(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "write_onnx", lambda *a: a[2].write_text("new"))
    monkeypatch.setattr(export_onnx, "Runner", lambda *_: None)
    monkeypatch.setattr(export_onnx, "differences", lambda *_: (0.0, float("nan")))
    (tmp_path / "decode.cpp").write_text("older")
    with pytest.raises(InputError, match="differ from ESPnet's by 0 .*and nan"):
        export_onnx.main([str(folder), "--out", str(tmp_path)])
    assert (tmp_path / "decode.cpp").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["decode.cpp"]


def test_missing_onnxruntime_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "onnxruntime":
            raise ImportError("no", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="onnxruntime is not installed"):
        runtime()

"""ESPnet's streaming search: what it hears in parts is what it hears as a whole."""

import numpy as np
import pytest
import soundfile
import torch
from espnet2.bin import asr_inference as espnet_whole
from espnet2.bin import asr_inference_streaming as espnet
from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

from espnet_prune.base.errors import InputError
from espnet_prune.cli import asr_inference, run
from espnet_prune.cli.measure import delay_of, read_inference_config
from espnet_prune.families.espnet.tasks import ASR
from espnet_prune.serving.decoders import read_search
from espnet_prune.serving.load import load
from espnet_prune.serving.streaming import check_streaming
from tests.fixtures.encoders import NO_DROPOUT, SIZES
from tests.fixtures.gated import SMALL

SEARCH = {"beam_size": 3, "ctc_weight": 0.4, "lm_weight": 0.0}


@pytest.fixture(scope="module")
def compact(make_dense):
    """Files of a streaming model without a block, submodules and channels."""
    sizes = {"heads": 3, "qk_dim": 2, "v_dim": 4, "conv": 5, "ffn1": 7, "ffn2": 0}
    blocks = [sizes, None, sizes | {"heads": 0, "qk_dim": 0, "v_dim": 0}]
    conf = {"architecture": {"subsampling": [5, 9], "blocks": blocks}}
    conf |= {"num_blocks": 3, "macaron_style": True}
    conf |= {"block_size": 8, "hop_size": 3, "look_ahead": 2}
    folder = make_dense(
        encoder="prunable_contextual_block_conformer",
        encoder_conf=SIZES | NO_DROPOUT | conf,
    )
    weights = torch.load(folder / "model.pth")
    for name in ("ctc.ctc_lo.weight", "decoder.output_layer.weight"):
        draw = torch.Generator().manual_seed(3)  # it says something else than blank
        weights[name] = torch.randn(weights[name].shape, generator=draw)
    torch.save(weights, folder / "model.pth")
    return folder / "config.yaml", folder / "model.pth"


def heard(decoder):
    """Token ids of some utterances of noise."""
    draw = torch.Generator().manual_seed(0)
    noise = (torch.randn(n, generator=draw) for n in (8000, 7000, 12345, 16000))
    return [decoder(x)[0][2] for x in noise]


@pytest.mark.parametrize("samples", [0, 300, 2000, 8000, 20000])
def test_it_hears_in_parts_what_espnet_hears_as_a_whole(compact, samples, caplog):
    """By its streaming search and by the other one; parts may be the longer ones."""
    expected = heard(Speech2TextStreaming(*compact, **SEARCH))
    assert expected == heard(Speech2Text(*compact, **SEARCH))
    assert len({token for ids in expected for token in ids}) > 3
    decoder = load(*compact, **SEARCH, sim_chunk_length=samples)
    assert delay_of(decoder) is None
    with caplog.at_level("INFO"):
        caplog.clear()
        assert heard(decoder) == expected
    assert len(decoder.delays) == len(expected) and delay_of(decoder) > 0
    told = [r for r in caplog.records if "best hypo" in r.getMessage()]
    assert len(told) == len(expected)


def decoded(folder, command, monkeypatch):
    """The texts, by utterance, that ESPnet's program writes by our decoders."""
    argv = ["asr_inference", "--output_dir", folder / "out", *command]
    argv += ["--data_path_and_name_and_type", f"{folder}/wav.scp,speech,sound"]
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    for program, name in (
        (espnet, "Speech2TextStreaming"),
        (espnet_whole, "Speech2Text"),
    ):  # the program puts ours in their place
        monkeypatch.setattr(program, name, getattr(program, name))
    monkeypatch.setattr(asr_inference, "hand_logging_to_espnet", lambda: None)
    asr_inference.main()
    lines = (folder / "out/1best_recog/text").read_text().splitlines()
    return {key: text.strip() for key, _, text in (x.partition(" ") for x in lines)}


@pytest.mark.parametrize("kind", ["compact", "contextual_block_transformer"])
@pytest.mark.parametrize(
    "search",
    [
        "beam_size: 2",
        "beam_size: 2\nsim_chunk_length: 0",
        "beam_size: 2\nsim_chunk_length: 300",
        "ctc_greedy: true",
    ],
)
def test_an_utterance_too_short_for_the_encoder_is_empty_and_the_next_is_heard(
    kind, search, compact, make_dense, tmp_path, monkeypatch
):
    files = compact
    if kind != "compact":
        conf = SMALL | {"block_size": 8, "hop_size": 3, "look_ahead": 2}
        folder = make_dense(encoder=kind, encoder_conf=conf)
        files = folder / "config.yaml", folder / "model.pth"
    draw = np.random.default_rng(0)
    for name, samples in (("a", 700), ("b", 8000)):  # six frames, of seven needed
        soundfile.write(tmp_path / f"{name}.wav", draw.normal(0, 0.2, samples), 16000)
    (tmp_path / "decode.yaml").write_text(search)
    command = ["--asr_train_config", files[0], "--asr_model_file", files[1]]
    command += ["--config", tmp_path / "decode.yaml", "--num_workers", 0]
    found = []
    for names in ("b", "ab"):
        lines = [f"{name} {tmp_path}/{name}.wav\n" for name in names]
        (tmp_path / "wav.scp").write_text("".join(lines))
        found.append(decoded(tmp_path, command, monkeypatch))
    assert found[1] == {"a": ""} | found[0]
    assert kind != "compact" or found[0]["b"]


def test_what_does_not_stream_is_named(compact, dense):
    with pytest.raises(InputError, match="'conformer', does not stream -> leave sim_"):
        load(dense / "config.yaml", dense / "model.pth", sim_chunk_length=0)
    with pytest.raises(InputError, match="256 samples are no more than a window"):
        load(*compact, sim_chunk_length=256)
    with pytest.raises(InputError, match="onnxruntime does not run it -> leave out"):
        load(*compact, "int8", sim_chunk_length=0)


@pytest.mark.parametrize(
    ("command", "config", "part"),
    [
        ((), "beam_size: 2", 0),
        (("--sim_chunk_length", "4000"), "disable_repetition_detection: true", 4000),
        (("--sim_chunk_length", "4000"), "sim_chunk_length: 3000", 4000),
        ((), "sim_chunk_length: 3000", 3000),
    ],
)
def test_espnets_program_makes_its_parts_by_ours(
    compact, tmp_path, monkeypatch, command, config, part
):
    """As an ESPnet recipe calls it that is given --use_streaming true."""
    module = run.program(["-m", espnet.__name__])
    (tmp_path / "decode.yaml").write_text(config)
    argv = ["", "--asr_train_config", compact[0], "--asr_model_file", compact[1]]
    argv += ["--config", tmp_path / "decode.yaml", *command]
    argv += ["--output_dir", "out", "--data_path_and_name_and_type", "a,speech,sound"]
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    given = []
    monkeypatch.setattr(espnet, "main", lambda cmd: given.append(cmd))
    monkeypatch.setattr(espnet, "Speech2TextStreaming", None)
    monkeypatch.setattr(asr_inference, "hand_logging_to_espnet", lambda: None)
    module.main()
    assert espnet.get_parser().parse_args(given[0]).sim_chunk_length == 0
    assert espnet.Speech2TextStreaming(*map(str, compact)).part == part


def test_a_pruning_run_is_no_streaming_model(pruned, monkeypatch, tmp_path):
    argv = ["", "--asr_train_config", str(pruned / "config.yaml")]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(InputError, match="is a pruning run"):
        run.program(["-m", espnet.__name__]).main()
    (tmp_path / "decode.yaml").write_text("ctc_greedy: true")
    with pytest.raises(InputError, match="decode.yaml: ctc_greedy does not stream"):
        read_search(tmp_path / "decode.yaml", streaming=True)


def test_parts_that_are_normalized_apart_are_warned_of(caplog):
    config = {"encoder": "contextual_block_transformer", "normalize": "utterance_mvn"}
    check_streaming("a.yaml", config, 0)
    check_streaming("a.yaml", config | {"normalize": "global_mvn"}, 4000)
    assert not caplog.text
    check_streaming("a.yaml", config, 4000)
    assert "a.yaml: utterance_mvn normalizes each part by itself" in caplog.text


def test_stage_17_times_the_search_in_parts(tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text(
        "sim_chunk_length: 0\ndisable_repetition_detection: true\nseed: 1"
    )
    found = {"sim_chunk_length": 0, "disable_repetition_detection": True}
    assert read_inference_config(config, ASR) == found

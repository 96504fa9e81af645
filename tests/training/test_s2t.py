"""OWSM: a model of ESPnet's S2T task is pruned, exported and fine-tuned like ASR's."""

import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from espnet2.bin.s2t_inference import Speech2Text
from espnet2.main_funcs import pack_funcs
from espnet2.tasks.s2t import S2TTask

from espnet_prune import load
from espnet_prune.base.files import read_yaml
from espnet_prune.base.table import read_table
from espnet_prune.cli import decode, export, measure, prune_train
from espnet_prune.cli import pack as packing
from espnet_prune.serving.inference import RuntimeEncoder
from tests.fixtures.runs import RECIPE

pytestmark = pytest.mark.slow  # another task of ESPnet, from training to decoding


@pytest.fixture(scope="module")
def trained(owsm, s2t_data_options, tmp_path_factory) -> Path:
    """Directory of a pruning run, ``pruned``, and of its model, ``compact``."""
    folder = tmp_path_factory.mktemp("s2t")
    sparsity = {"macs_seconds": 0.8, "macs_tokens": 9, "denominator": "model"}
    sparsity |= {"target": 0.4, "warmup": 0.5}
    recipe = RECIPE | {"max_epoch": 1, "prune_decoder": True, "sparsity": sparsity}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    common = ["--recipe", folder / "recipe.yaml", *s2t_data_options]
    common += ["--batch_type", "unsorted", "--batch_size", "6"]  # as the page says
    common += ["--teacher_config", owsm / "config.yaml"]
    common += ["--teacher_model", owsm / "model.pth"]
    prune_train.main([*map(str, common), "--output_dir", str(folder / "pruned")])
    compact = str(folder / "compact")
    export.main(["--pruned", str(folder / "pruned"), "--out", compact])
    tune = ["--output_dir", f"{compact}/finetune", "--compact", compact]
    tune += ["--best_model_criterion", "valid,acc,max"]
    prune_train.main([*map(str, common), *tune])
    return folder


@pytest.fixture(scope="module")
def compact(trained) -> tuple[Path, Path]:
    """Config and weights of the fine-tuned model."""
    return trained / "compact/config.yaml", trained / "compact/finetuned.pth"


@pytest.fixture
def speech(data_dir) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(data_dir / "utt03.wav", dtype="float32")[0])


def test_the_student_learned_from_labels_and_teacher(trained):
    state = torch.load(trained / "pruned/checkpoint.pth", weights_only=False)
    stats = state["reporter"]["stats"][1]["train"]
    for name in ("loss_att", "loss_ctc", "loss_layer", "loss_output", "lambda1"):
        assert stats[name] != 0, name


def test_espnets_own_task_loads_what_is_left_strictly(owsm, compact):
    model, _ = S2TTask.build_model_from_file(compact[0], None)
    weights, dense = torch.load(compact[1]), torch.load(owsm / "model.pth")
    model.load_state_dict(weights, strict=True)
    for part in ("encoder.", "decoder.decoders."):
        left, whole = (
            sum(x.numel() for key, x in state.items() if key.startswith(part))
            for state in (weights, dense)
        )
        assert left < whole
    config = read_yaml(compact[0])
    assert config["model"] == "espnet" and config["preprocessor"] == "s2t"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_loaded_decoder_hears_what_espnets_does(compact, speech, precision):
    options = {"beam_size": 3, "maxlenratio": -6, "task_sym": "<nospeech>"}
    fast = load(*compact, precision=precision, **options)
    assert isinstance(fast, Speech2Text)
    assert isinstance(fast.s2t_model.encoder, RuntimeEncoder)
    stock = Speech2Text(*compact, **options)
    (found,), (expected,) = fast(speech), stock(speech)
    assert found[2][:3] == [4, 3, 6]  # <eng><nospeech><notimestamps>
    if precision == "fp32":
        assert found[:4] == expected[:4]
    timed = fast(speech, text_prev="A B", lang_sym="<eng>", predict_time=True)
    assert timed[0][1][2] in fast.s2t_model.token_list[7:48]


def test_programs_decode_and_measure(
    owsm, compact, data_dir, tmp_path, monkeypatch, caplog
):
    options = {"beam_size": 2, "maxlenratio": -6, "lang_sym": "eng"}
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(options))
    search = ["--inference_config", str(tmp_path / "decode.yaml")]
    command = ["--config", compact[0], "--model", compact[1], "--data", data_dir]
    command += [*search, "--out", tmp_path / "out", "--nj", "1"]
    monkeypatch.setattr(sys, "argv", ["decode", *map(str, command)])
    decode.main()
    text, tokens = (read_table(tmp_path / "out" / n) for n in ("text", "token"))
    assert text.keys() == tokens.keys() == read_table(data_dir / "text").keys()
    for key, heard in tokens.items():
        assert heard.split()[:3] == ["<eng>", "<asr>", "<notimestamps>"]
        assert "<" not in text[key]
    systems = [
        "--system",
        f"dense={owsm}/config.yaml:{owsm}/model.pth:{tmp_path}/dense",
    ]
    systems += ["--system", f"small={compact[0]}:{compact[1]}:{tmp_path}/small"]
    more = ["--utts", "2", "--rounds", "1", "--data", str(data_dir), *search]
    measure.main([*systems, *more])
    dense, small = (
        read_yaml(tmp_path / n / "measure.json") for n in ("dense", "small")
    )
    assert small["params"]["total"] < 0.61 * dense["params"]["total"]
    assert {"encoder", "search"} <= small["rtf"].keys()


def test_packed_model_is_unpacked_by_espnet(
    owsm, trained, compact, speech, tmp_path, monkeypatch
):
    out = tmp_path / "model.zip"
    command = ["pack", "--compact", trained / "compact", "--license", "cc-by-4.0"]
    command += ["--out", out, "--corpus", "tones", "--dense", owsm]
    command += ["--decode_tag", "decode", "--test_sets", "test"]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    packing.main()
    options = {"beam_size": 2, "maxlenratio": -6}
    files = pack_funcs.unpack(out, tmp_path / "there", use_cache=False)
    packed = Speech2Text(**files, **options)
    assert packed(speech)[0][:4] == Speech2Text(*compact, **options)(speech)[0][:4]

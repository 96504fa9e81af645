"""A self-supervised encoder from its owner's directory and back, smaller."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCTC,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.cli import (
    ssl_audio,
    ssl_export,
    ssl_measure,
    ssl_probe,
    ssl_report,
    ssl_train,
)
from espnet_prune.export import ssl as exporting
from espnet_prune.families.ssl.directory import fingerprint_of, locate
from espnet_prune.families.ssl.model import read
from espnet_prune.measuring import drawn_encoders, latency
from espnet_prune.report.ssl import check_fresh, score, scored
from espnet_prune.training.trainer import PruneTrainer
from tests.families.test_speech_encoders import BASE, TINY
from tests.recipe_copy import copy_recipe, start
from tests.training.test_resume import Killed, assert_same_run, kill_in_epoch

CLEAN = """
import sys, torch
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForCTC
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
print(model(torch.zeros(1, 900)).last_hidden_state.shape[2])
heads = {"vocab_size": 5}, {"num_labels": 3}
for auto, head in zip((AutoModelForCTC, AutoModelForAudioClassification), heads):
    model = auto.from_pretrained(folder, trust_remote_code=True, **head)
    model(torch.randn(2, 900)).logits.sum().backward()
assert "espnet_prune" not in sys.modules
"""


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    torch.manual_seed(0)
    HubertModel(HubertConfig(**TINY, **BASE, layerdrop=0.1)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Recordings of 8 kHz, stereo, silence, and one that is none."""
    folder = tmp_path_factory.mktemp("audio")
    draw = np.random.default_rng(0)
    for i in range(24):
        samples = 0.1 * draw.standard_normal((8000 * (1 + i % 3), 1 + i % 2))
        soundfile.write(folder / f"r{i:02d}.wav", samples, 8000)
    soundfile.write(folder / "silent.flac", np.zeros(16000), 16000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="module")
def crops(audio, tmp_path_factory):
    out = tmp_path_factory.mktemp("crops") / "dump"
    ssl_audio.main(["--audio", str(audio), "--out", str(out), "--seconds", "1"])
    return out


def train(dense, crops, out, recipe, *options):
    argv = [
        "--dense",
        dense,
        "--output_dir",
        out,
        "--recipe",
        f"conf/ssl/{recipe}.yaml",
    ]
    argv += ["--train", crops / "train", "--valid", crops / "valid", *options]
    ssl_train.main([str(x) for x in argv])


@pytest.fixture(scope="module")
def pruned(dense, crops, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "pruned"
    train(dense, crops, out, "prune", "--max_epoch", 2, "--kind", "params+macs")
    return out


@pytest.fixture(scope="module")
def compact(pruned):
    out = pruned.parent / "compact"
    ssl_export.main(["--pruned", str(pruned), "--out", str(out)])
    return out


def test_audio_of_any_kind_becomes_crops(audio, crops, caplog):
    lengths = read_table(crops / "train/utt2num_samples")
    lengths |= read_table(crops / "valid/utt2num_samples")
    assert all(8000 <= int(n) <= 24000 for n in lengths.values())
    assert sum(map(int, lengths.values())) == 16000 * sum(1 + i % 3 for i in range(24))
    first = next(iter(read_table(crops / "train/wav.scp").values()))
    info = soundfile.info(first)
    assert info.samplerate == 16000 and info.channels == 1
    with caplog.at_level("INFO"):
        ssl_audio.main(["--audio", str(audio), "--out", str(crops), "--seconds", "1"])
    assert "made before" in caplog.text


def test_compact_model_meets_its_target_and_loads_without_this_package(compact):
    told = json.loads((compact / "pruning.json").read_text())
    assert told["params"] < 0.55 * told["dense_params"]
    assert min(told["removed"].values()) >= 0.5 and told["max_relative_error"] < 1e-12
    config = json.loads((compact / "config.json").read_text())
    assert config["layerdrop"] == 0.1 and config["apply_spec_augment"]
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", CLEAN, str(compact)]
    result = subprocess.run(command, env=own, cwd="/", capture_output=True, text=True)
    assert result.stdout == "16\n", result.stderr


def test_killed_pruning_ends_where_it_would_have_ended(
    dense, crops, pruned, tmp_path, monkeypatch
):
    options = ("--max_epoch", 2, "--kind", "params+macs")
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, PruneTrainer, 2)
        with pytest.raises(Killed):
            train(dense, crops, tmp_path, "prune", *options)
    assert not (tmp_path / "2epoch.pth").exists()
    train(dense, crops, tmp_path, "prune", *options)
    assert_same_run(pruned, tmp_path)


def test_the_same_export_is_kept_and_another_run_refused(
    dense, crops, pruned, compact, caplog
):
    with caplog.at_level("INFO"):
        ssl_export.main(["--pruned", str(pruned), "--out", str(compact)])
    assert "holds this very model: kept" in caplog.text
    before = {path.name: path.read_bytes() for path in pruned.glob("*.yaml")}
    for options, told in (
        (("--max_epoch", 2, "--kind", "macs"), "holds a training of other options"),
        (("--max_epoch", 4, "--kind", "params+macs"), "was begun for 2 epochs"),
    ):
        with pytest.raises(InputError, match=told):
            train(dense, crops, pruned, "prune", *options)
    assert {path.name: path.read_bytes() for path in pruned.glob("*.yaml")} == before


def test_a_cost_that_is_not_the_budgets_is_refused(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "count_macs", lambda *_: 1.0)
    with pytest.raises(RuntimeError, match="macs are left by declaration, 1 by"):
        ssl_export.main(["--pruned", str(pruned), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_compact_model_loads_without_its_code_where_this_package_is(compact):
    model = AutoModel.from_pretrained(compact)
    assert type(model).__module__ == "espnet_prune.families.ssl.pruned_speech"
    own, again = model.state_dict(), read(compact).state_dict()
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)


def test_distillation_brings_it_nearer_to_the_dense_model(dense, compact, crops):
    run = compact.with_name("distil")
    options = "--compact", compact, "--max_epoch", 4, "--optim_conf", "lr=0.005"
    train(dense, crops, run, "distil", *options)
    audio = torch.randn(4, 16000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = read(dense)(audio).last_hidden_state
        before, after = (
            (read(folder)(audio).last_hidden_state - wanted).abs().mean()
            for folder in (compact, compact.with_name("compact_distilled"))
        )
    assert after < before


@pytest.mark.parametrize("method", ["magnitude", "blocks", "small_distilled"])
def test_baselines_meet_the_same_target_without_training(
    dense, crops, tmp_path, method
):
    train(dense, crops, tmp_path / "run", "prune", "--method", method)
    assert not (tmp_path / "run/checkpoint.pth").exists()
    out = tmp_path / "compact"
    ssl_export.main(["--pruned", str(tmp_path / "run"), "--out", str(out)])
    told = json.loads((out / "pruning.json").read_text())
    assert told["method"] == method and 0.5 <= told["removed"]["params"] < 0.6
    blocks = told["architecture"]["blocks"]
    whole = [b["heads"] == 4 and b["ffn"] == 24 for b in blocks]
    assert any(whole) == (method == "blocks")
    kept, own = (load_file(f / "model.safetensors") for f in (out, dense))
    same = torch.equal(kept["masked_spec_embed"], own["masked_spec_embed"])
    assert same == (method != "small_distilled")
    short = ("--compact", out, "--max_epoch", 1)
    train(dense, crops, tmp_path / "distil", "distil", *short)
    config = yaml.safe_load((tmp_path / "distil/config.yaml").read_text())
    assert config["max_epoch"] == (2 if method == "small_distilled" else 1)


def test_latency_is_a_target_measured_before_anything_is_written(
    dense, crops, tmp_path, monkeypatch
):
    monkeypatch.setattr(drawn_encoders, "ENCODERS", 6)
    monkeypatch.setattr(latency, "ROUNDS", 2)
    run, out = tmp_path / "run", tmp_path / "compact"
    options = ("--kind", "latency", "--method", "magnitude")
    options += ("--sparsity", "macs_seconds=0.5")
    shared = ("--latency_table", tmp_path / "latency.json")
    train(dense, crops, run, "prune", *options, *shared)
    prices = json.loads((run / "latency.json").read_text())["prices"]
    assert (tmp_path / "latency.json").is_file() and sum(prices.values()) > 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model_conf"]["budget"]["latency"] == prices
    ssl_export.main(["--pruned", str(run), "--out", str(out)])
    told = json.loads((out / "pruning.json").read_text())
    assert told["removed"]["latency"] >= 0.5


def test_head_of_a_fine_tuned_model_goes_along(crops, tmp_path):
    """A recognizer comes back as one, pruned without labels."""
    dense = tmp_path / "recognizer"
    torch.manual_seed(0)
    HubertForCTC(HubertConfig(**TINY, **BASE, vocab_size=7)).save_pretrained(dense)
    (dense / "vocab.json").write_text("{}")
    train(dense, crops, tmp_path / "run", "prune", "--method", "magnitude")
    out = tmp_path / "compact"
    for _ in range(2):  # the second time it is kept
        ssl_export.main(["--pruned", str(tmp_path / "run"), "--out", str(out)])
    assert not list(tmp_path.glob("compact.*")) and (out / "vocab.json").is_file()
    own, whole = (AutoModelForCTC.from_pretrained(folder) for folder in (out, dense))
    assert torch.equal(own.lm_head.weight, whole.lm_head.weight)
    audio = torch.randn(2, 4000)
    with torch.no_grad():
        states = read(out)(audio).last_hidden_state
        torch.testing.assert_close(own.eval()(audio).logits, whole.lm_head(states))


def test_next_rung_goes_on_from_the_gates_of_the_last(dense, crops, pruned, tmp_path):
    still = (
        "--sparsity",
        "gate_lr=0.000000000001",
        "--sparsity",
        "multiplier_lr=0.000000000001",
    )
    options = ("--previous", pruned, "--target", 0.7, "--kind", "params+macs")
    train(dense, crops, tmp_path / "run", "prune", *options, "--max_epoch", 1, *still)
    first, second = (
        torch.load(folder / "latest.pth") for folder in (pruned, tmp_path / "run")
    )
    torch.testing.assert_close(first["gates.log_alpha"], second["gates.log_alpha"])
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert set(config["model_conf"]["sparsity"]["start"].values()) == {0.5}


def test_from_python_a_directory_and_a_folder_give_a_small_model(
    dense, audio, tmp_path, capfd
):
    short = ("--max_epoch", "1", "--use_tensorboard", "false")
    options = {"prune_options": short, "distil_options": short, "seconds": 1, "nj": 1}
    out = tmp_path / "out"
    model = espnet_prune.prune_speech(dense, audio, out, target=0.6, **options)
    assert model.num_parameters() < 0.4 * read(dense).num_parameters() + 100
    assert "epoch 1/1" in capfd.readouterr().out
    again = AutoModel.from_pretrained(out / "compact_distilled")
    audio = torch.randn(1, 4000)
    with torch.no_grad():
        pair = (m.eval()(audio).last_hidden_state for m in (model, again))
        torch.testing.assert_close(*pair)
    with pytest.raises(InputError, match="must be in|fraction to remove"):
        espnet_prune.prune_speech(dense, "nowhere", tmp_path / "no", target=1.5)
    assert not (tmp_path / "no").exists()


def test_report_compares_costs_and_probes(dense, compact, tmp_path, capsys, caplog):
    """Of labels that can be heard: the tone of an utterance."""
    for part, number in (("train", 24), ("test", 12)):
        folder = tmp_path / part
        folder.mkdir()
        text, scp = [], []
        for i in range(number):
            tone = np.sin(np.arange(8000) * (0.1, 0.3, 0.7)[i % 3] + i)
            soundfile.write(folder / f"u{i}.wav", 0.3 * tone, 16000)
            text.append(f"u{i} {'abc'[i % 3]}\n")
            scp.append(f"u{i} {folder}/u{i}.wav\n")
        (folder / "text").write_text("".join(text))
        (folder / "wav.scp").write_text("".join(scp))
    out = tmp_path / "report"
    models = ["--dense", dense, "--compact", compact, "--out", out]
    tone = ["--probes", f"tone=words:{tmp_path / 'train'}:{tmp_path / 'test'}"]
    with caplog.at_level("INFO"):
        for _ in range(2):  # the second time nothing is probed anew
            ssl_probe.main([str(x) for x in (*models, *tone, "--seeds", 2)])
    ssl_measure.main([str(x) for x in (*models, "--seconds", 1, "--rounds", 2)])
    ssl_report.main([str(x) for x in models])
    assert caplog.text.count("tone, compact: ") == 1
    report = json.loads((out / "report.json").read_text())
    found = report["rows"]
    systems = [row["system"] for row in found]
    assert systems == ["log_mel", "untrained", "dense", "compact"]
    assert found[0]["probes"]["tone"]["value"] == 100
    assert found[3]["removed"].keys() == {"params", "macs"}
    for kind in ("params", "macs"):
        assert found[3][kind] < found[2][kind]
    # Dense is not ahead of log mel energies.
    assert report["scored"] == [] and all(row["score"] is None for row in found)
    assert "there is no score" in (out / "report.html").read_text()
    assert "## Measured" in (compact / "README.md").read_text()
    assert "compact -50 % params+macs" in capsys.readouterr().out


def test_score_puts_log_mel_at_0_and_dense_at_1000_whichever_way_is_up():
    def row(system, accuracy, errors):
        values = {"words": accuracy, "spelling": errors}
        probes = {k: {"value": v, "ci": (v - 5, v + 5)} for k, v in values.items()}
        return {"system": system, "probes": probes}

    rows = [row("log_mel", 40, 80), row("dense", 80, 30), row("compact", 70, 40)]
    probes = {"words": {"higher": True}, "spelling": {"higher": False}}
    both = scored(rows, probes)
    assert both == ["words", "spelling"]
    assert [score(own, rows, both) for own in rows] == [0, 1000, 775]
    rows[1]["probes"]["words"]["ci"] = (39, 81)  # no longer ahead for sure
    assert scored(rows, probes) == ["spelling"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "bert"}, "type 'bert' cannot be pruned -> give one of hubert"),
        ({"conv_pos_batch_norm": True}, "BatchNorm behind the positional convolution"),
    ],
)
def test_what_cannot_be_pruned_is_named(dense, tmp_path, change, told):
    config = json.loads((dense / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=told):
        read(tmp_path)


def test_name_on_hugging_face_stands_for_a_directory(dense, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(name)
        if name == "no/model":
            raise LocalEntryNotFoundError("no network")
        return str(dense)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate(dense) == dense and locate("owner/name") == dense
    with pytest.raises(InputError, match="no/model: cannot be had: no network"):
        locate("no/model")
    assert asked == ["owner/name", "no/model"]


def test_recordings_of_the_same_last_name_are_kept_apart(tmp_path):
    scp = {}
    for i in range(4):
        file = tmp_path / f"s{i % 2}" / f"{i // 2}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(
            file, 0.1 * np.random.default_rng(i).standard_normal(9000), 16000
        )
        scp[f"sp0.9-{i}"] = str(file)
    (tmp_path / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in scp.items()))
    for name in ("wav.scp", "s0", "s1"):
        out = tmp_path / f"out_{name}"
        ssl_audio.main(["--audio", str(tmp_path / name), "--out", str(out)])
        lengths = read_table(out / "train/utt2num_samples")
        lengths |= read_table(out / "valid/utt2num_samples")
        assert len(lengths) == (4 if name == "wav.scp" else 2)
    soundfile.write(tmp_path / "s0/0.flac", np.ones(9000), 16000)
    with pytest.raises(InputError, match="both would be called so"):
        ssl_audio.main(["--audio", str(tmp_path / "s0"), "--out", str(tmp_path / "x")])


def test_numbers_of_other_weights_are_refused(dense, compact, tmp_path):
    weights = {
        name: fingerprint_of(f) for name, f in (("dense", dense), ("x", compact))
    }
    systems = {name: {"weights": weights["dense"]} for name in weights}
    with pytest.raises(InputError, match="is not of the x .* -> run stage 6 again"):
        check_fresh(tmp_path, {"dense": dense, "x": compact}, {"systems": systems}, {})


def test_wrong_input_is_named(dense, crops, tmp_path):
    with pytest.raises(InputError, match="holds no config.json"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds 0 recordings"):
        ssl_audio.main(["--audio", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="cannot be removed"):
        train(dense, crops, tmp_path / "run", "prune", "--target", 0.999)
    with pytest.raises(InputError, match="small: has no dense model to follow"):
        train(dense, crops, tmp_path / "run", "prune", "--method", "small")
    with pytest.raises(InputError, match="slim: unknown"):
        espnet_prune.prune_speech(dense, "x", tmp_path / "out", method="slim")


def test_what_is_pruned_already_is_not_pruned_again(compact, crops, tmp_path):
    with pytest.raises(InputError, match="is pruned already -> give the dense model"):
        train(compact, crops, tmp_path / "run", "prune")


@pytest.mark.slow
def test_one_command_goes_from_a_model_and_audio_to_a_report(dense, audio, tmp_path):
    """What no other test shows: the stages of the shell fit each other."""
    recipe = copy_recipe(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    short = "--max_epoch 1"
    options = ["--family", "ssl", "--model", dense, "--audio", audio, "--tag", "tiny"]
    options += ["--crop_seconds", "1", "--prune_args", short, "--distil_args", short]
    options += ["--measure_args", "--seconds 1 --rounds 2"]
    result = subprocess.run(
        ["bash", recipe / "run.sh", *map(str, options)],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((recipe / "exp/tiny_report/report.json").read_text())
    names = [row["system"] for row in report["rows"]]
    assert names == ["dense", "compact"]
    assert "stage 7" in result.stdout and "left out 1 recordings" in result.stderr


@pytest.mark.slow
def test_quick_preset_needs_nothing(tmp_path):
    """What no other test shows: the model of the project, the synthetic audio and the
    probes by default."""
    recipe = copy_recipe(tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", recipe / "run.sh", "--family", "ssl", "--preset", "quick"],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(
        (recipe / "exp/small_hubert_quick_report/report.json").read_text()
    )
    assert report["probes"].keys() == {"words", "characters", "queries"}
    assert all(
        row["probes"].keys() == report["probes"].keys() for row in report["rows"]
    )
    dense, compact = report["rows"][2:]
    assert compact["params"] < 0.51 * dense["params"]
    assert (
        "QUICK PRESET"
        in (recipe / "exp/small_hubert_quick_report/report.md").read_text()
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "2"), "--targets 2: give fractions"),
        (("--preset", "thorough"), "--preset thorough: default or quick"),
        (("--crop_seconds", "x"), "--crop_seconds x: give seconds"),
        (("--stage", "8"), "no stage lies there"),
        (("--model", "no/such/model"), "no/such/model: is no directory"),
        (("--model", "x", "--audio", "x", "--nope", "2"), "unknown option --nope"),
    ],
)
def test_wrong_option_is_one_clear_line(tmp_path, options, told):
    recipe = copy_recipe(tmp_path)
    result = start(recipe / "run.sh", "--family", "ssl", *options)
    assert result.returncode == 2 and told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1

"""prune() takes an experiment and data directories, and gives a compact model."""

import json
import shutil

import pytest
import soundfile
import yaml

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table, write_table
from espnet_prune.cli import ladder
from espnet_prune.cli import prune as api
from espnet_prune.cli.prune import hold_out
from espnet_prune.data.kaldi_dir import read_data_dir

SHORT = ("--max_epoch", "2", "--batch_bins", "40000", "--distill", "layers=2")
SHORT += ("--use_matplotlib", "false", "--use_tensorboard", "false")


@pytest.fixture
def kaldi(data_dir, tmp_path):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    for name in ("wav.scp", "text"):
        shutil.copy(data_dir / name, folder)
    keys = read_table(folder / "text")
    write_table(folder / "utt2spk", {k: f"speaker{i % 3}" for i, k in enumerate(keys)})
    return folder


def test_an_experiment_and_a_kaldi_directory_give_a_compact_model(
    dense, kaldi, tmp_path, capfd
):
    out = tmp_path / "out"
    options = {"prune_options": SHORT, "finetune_options": SHORT, "nj": 1}
    options["beam_size"] = 2
    options["finetune_options"] = (*SHORT, "--batch_type", "folded")
    speech2text = espnet_prune.prune(dense, kaldi, out, model="model.pth", **options)
    speech, _ = soundfile.read(kaldi.parent / read_table(kaldi / "wav.scp")["utt03"])
    assert isinstance(speech2text(speech)[0][0], str)
    pruning = json.loads((out / "compact/pruning.json").read_text())
    assert 0.5 <= pruning["removed"]["params"] < 0.53
    assert "epoch 2/2" in capfd.readouterr().out
    assert len(read_table(out / "dump/valid/text")) == 1
    # Called again it finds everything done, and gives the same weights.
    before = (out / "compact/finetuned.pth").read_bytes()
    espnet_prune.prune(dense, kaldi, out, model="model.pth", **options)
    assert (out / "compact/finetuned.pth").read_bytes() == before


def test_what_is_wrong_with_the_data_is_said_once(dense, kaldi, tmp_path):
    (kaldi / "wav.scp").write_text("utt00 nowhere.wav\n")
    with pytest.raises(InputError, match="nowhere.wav|other|ids"):
        espnet_prune.prune(
            dense, kaldi, tmp_path / "out", valid=kaldi, model="model.pth"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "nowhere"}, "nowhere/config.yaml: does not exist"),
        ({"model": "nowhere.pth"}, "nowhere.pth: does not exist"),
        ({"target": 1.5}, "target is the fraction to remove"),
        ({"kind": "flops"}, "kind must be one of"),
        ({"ngpu": 99}, "--ngpu 99: "),
        ({"prune_options": ("--max_epochs", "3")}, "--prune_args: no option '--max_"),
        ({"finetune_options": ("--distill", "layer=3")}, "no option 'layer'"),
        ({"finetune_options": ("--seed", "one")}, "--finetune_args: argument --seed"),
        ({"finetune_recipe": "nowhere.yaml"}, "nowhere.yaml: does not exist"),
        ({"method": "slim"}, "--method slim: is unknown"),
        (
            {"prune_options": ("--target", "0.9")},
            "--prune_args: --target is not of one stage alone -> give it beside",
        ),
        (
            {"prune_options": ("--sparsity", "by=magnitude")},
            "--sparsity: sparsity: by is the plan's -> leave it out: the method",
        ),
        ({"prune_options": ("--init_param", "a b", "--nope", "1")}, "option '--nope'"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    dense, kaldi, tmp_path, options, message
):
    out = tmp_path / "out"
    options = {"experiment": dense, "model": "model.pth"} | options
    with pytest.raises(InputError, match=message):
        espnet_prune.prune(train=kaldi, out=out, **options)
    assert not out.exists()


def test_tokenizer_that_needs_more_is_named_before_any_work(dense, kaldi, tmp_path):
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    teacher.mkdir()
    (teacher / "model.pth").symlink_to(dense / "model.pth")
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["token_type"] = "whisper_multilingual"
    (teacher / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="token_type whisper_multilingual cannot be"):
        espnet_prune.prune(teacher, kaldi, out, model="model.pth")
    assert not out.exists()


def test_held_out_utterances_are_not_trained_on(kaldi, tmp_path):
    names = sorted(read_table(kaldi / "text"))
    segments = {u: f"{names[i // 2]} {i % 2} {i % 2 + 1}" for i, u in enumerate(names)}
    write_table(kaldi / "segments", segments)
    wav = read_table(kaldi / "wav.scp")
    write_table(kaldi / "wav.scp", {r: wav[r] for r in names[:6]})
    parts = {n: read_data_dir(p) for n, p in hold_out(kaldi, tmp_path / "out").items()}
    assert parts["valid"].text.keys() | parts["train"].text.keys() == set(names)
    assert not parts["valid"].text.keys() & parts["train"].text.keys()
    assert parts["valid"].segments.keys() == parts["valid"].text.keys() == {names[0]}


def test_several_gpus_train_with_ddp(dense, kaldi, tmp_path, monkeypatch):
    calls, steps = [], []
    monkeypatch.setattr(api, "do_here", lambda *step: steps.append(step))
    monkeypatch.setattr(api, "load", lambda *paths: None)
    monkeypatch.setattr(api.check_early, "check", calls.append)
    monkeypatch.setattr(ladder.Ladder, "need", lambda *files: None)
    espnet_prune.prune(dense, kaldi, tmp_path / "out", model="model.pth", ngpu=2)
    assert calls.pop(0).ngpu == 2
    students = [options for module, options, _ in steps if "train" in module]
    assert len(students) == 2
    assert f"{tmp_path}/out/latency.json" in students[0]  # not beside the dense model
    for command in students:
        given = dict(zip(command, command[1:], strict=False))
        assert given["--ngpu"] == "2"
        assert given["--multiprocessing_distributed"] == "true"

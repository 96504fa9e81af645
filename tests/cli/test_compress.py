"""Compressed by audio alone: a directory as an export leaves it, and clear refusals."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.errors import InputError
from espnet_prune.cli import compress, export
from espnet_prune.config.rungs import make_rungs
from espnet_prune.data.calibration import calibration_audio
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.measuring.cost import encoder_cost
from espnet_prune.pruning.low_rank import LowRank
from espnet_prune.serving.load import load
from tests.fixtures.gated import CASES

SHORT = {"best_model_criterion": [["valid", "loss", "min"]], "max_epoch": 1}


def run(dense, data, out, *options):
    command = ["--config", dense / "config.yaml", "--model", dense / "model.pth"]
    command += ["--data", data, "--out", out, *options]
    compress.main([*map(str, command)])


@pytest.fixture(scope="module")
def compact(dense, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed") / "compact"
    run(dense, data_dir, out, "--target", 0.4)
    return out


def test_what_it_leaves_is_told_and_counted(dense, compact):
    told = json.loads((compact / "pruning.json").read_text())
    assert told["method"] == "low_rank" and told["target"]["value"] == 0.4
    assert told["teacher"] == str(dense / "model.pth")
    small, _ = load_model(compact / "config.yaml", compact / "pruned.pth")
    large, _ = load_model(dense / "config.yaml", dense / "model.pth")
    after, before = (encoder_cost(m.encoder, 1251, 20) for m in (small, large))
    for kind, gone in told["removed"].items():
        assert 0.4 <= gone == pytest.approx(1 - after[kind] / before[kind], abs=1e-3)
    low = {n: m for n, m in small.encoder.named_modules() if isinstance(m, LowRank)}
    ranks = told["architecture"]["ranks"]
    assert ranks == {name: m.up.weight.shape[1] for name, m in low.items()}
    realised = [part["realised"] for part in told["constraints"]]
    assert min(realised) == pytest.approx(told["realised"], abs=0.2)


def test_all_that_takes_an_export_takes_it(compact, train):
    files = compact / "config.yaml", compact / "pruned.pth"
    plain = Speech2Text(*map(str, files), beam_size=2)
    speech = 0.1 * torch.randn(2, 8000)
    lengths = torch.tensor([8000, 5000])
    expected, _ = plain.asr_model.encode(speech, lengths)
    for precision, allowed in (("fp32", 1e-4), ("int8", 0.3)):
        fast = load(*files, precision=precision, beam_size=2)
        found, _ = fast.asr_model.encode(speech[:1], lengths[:1])
        assert float((found - expected[:1]).detach().abs().mean()) < allowed
    state = train(compact / "finetune", "--compact", compact, **SHORT)
    tuned = torch.load(compact / "finetuned.pth")
    before = torch.load(files[1])
    assert tuned.keys() == before.keys() and state
    changed = [n for n in tuned if not torch.equal(tuned[n], before[n])]
    assert any(".down." in n for n in changed) and any(".up." in n for n in changed)


def test_the_same_audio_gives_the_same_model(dense, data_dir, compact):
    before = (compact / "pruned.pth").read_bytes(), compact.stat().st_ino
    run(dense, data_dir, compact, "--target", 0.4)
    assert before == ((compact / "pruned.pth").read_bytes(), compact.stat().st_ino)


def test_a_model_without_ctc_is_heard_too(make_dense, data_dir, tmp_path):
    conf = {"ctc_weight": 0.0, "report_cer": False, "report_wer": False}
    sizes = CASES["transformer"].conf
    dense = make_dense(model_conf=conf, encoder="transformer", encoder_conf=sizes)
    run(dense, data_dir, tmp_path / "out", "--kind", "macs")
    told = json.loads((tmp_path / "out/pruning.json").read_text())
    assert told["removed"]["macs"] >= 0.3


def audio_of(folder, samples, rate=16000):
    folder.mkdir()
    soundfile.write(folder / "a.wav", samples, rate)
    (folder / "wav.scp").write_text(f"a {folder / 'a.wav'}\n")
    return folder


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", 1.5), "--target 1.5: is no fraction of the encoder -> give one"),
        (("--target", 0), "--target 0: is no fraction"),
        (("--target", 0.99), "sparsity target: .* cannot be removed: what must stay"),
        (
            ("--target", 0.93),
            "sparsity target: cannot be met: .* choose a lower target",
        ),
    ],
)
def test_a_target_that_cannot_be_met_is_refused(
    dense, data_dir, tmp_path, options, told
):
    with pytest.raises(InputError, match=told):
        run(dense, data_dir, tmp_path / "out", *options)
    assert not [*tmp_path.iterdir()]


def test_audio_that_says_nothing_is_refused(dense, data_dir, tmp_path):
    out = tmp_path / "out"
    noise = 0.1 * np.random.default_rng(0).standard_normal((16000, 2))
    with pytest.raises(InputError, match="wav.scp: cannot be read.*with a wav.scp"):
        run(dense, tmp_path, out)
    slow = audio_of(tmp_path / "slow", noise[:, 0], 8000)
    with pytest.raises(InputError, match=r"8000 Hz, but \S*config.yaml hears 16000 Hz"):
        run(dense, slow, out)
    stereo = audio_of(tmp_path / "stereo", noise)
    with pytest.raises(InputError, match="a.wav: has 2 channels and 16000 Hz -> make"):
        run(dense, stereo, out)
    short = audio_of(tmp_path / "short", noise[:4000, 0])
    with pytest.raises(InputError, match="no recording of at least 0.5 s -> give"):
        run(dense, short, out)
    with pytest.raises(InputError, match="nowhere.yaml: does not exist -> give a tr"):
        compress.main(
            ["--config", "nowhere.yaml", "--model", "x", "--data", "x", "--out", "x"]
        )
    assert not out.exists()


def test_it_hears_no_more_than_it_needs(tmp_path):
    folder = audio_of(tmp_path / "long", np.zeros(25 * 8000), 8000)
    table = folder / "wav.scp"
    table.write_text(table.read_text() + table.read_text().replace("a ", "b ", 1))
    (heard,) = calibration_audio(table, 8000, "the model", seconds=15)
    assert len(heard) == 20 * 8000


@pytest.mark.parametrize(
    ("encoder", "recipe", "options", "told"),
    [
        ("contextual_block_conformer", {}, (), "nothing goes of it without a training"),
        ("conformer", {"sparsity": {"groups": {"ffn": 0.5}}}, (), "whole encoder"),
        (
            "conformer",
            {},
            ("--kind", "latency"),
            "--method low_rank: takes a target in",
        ),
    ],
)
def test_what_only_a_training_can_do_is_refused(
    make_dense, data_options, tmp_path, encoder, recipe, options, told
):
    from espnet_prune.cli import prune_train
    from tests.fixtures.runs import RECIPE

    case = CASES[encoder]
    dense = make_dense(encoder=encoder, encoder_conf=case.conf)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | recipe))
    command = ["--recipe", tmp_path / "recipe.yaml", "--output_dir", tmp_path / "out"]
    command += ["--teacher_config", dense / "config.yaml", "--method", "low_rank"]
    command += ["--teacher_model", dense / "model.pth", *options, *data_options]
    with pytest.raises(InputError, match=told):
        prune_train.main([*map(str, command)])


def test_units_chosen_with_ranks_are_not_rounded(train, tmp_path):
    train(tmp_path / "pruned", "--method", "low_rank", "--target", 0.4, **SHORT)
    argv = ["--pruned", tmp_path / "pruned", "--out", tmp_path / "out"]
    told = "--round_to 8: low_rank chooses ranks, .* -> leave it out"
    with pytest.raises(InputError, match=told):
        export.main([*map(str, argv), "--round_to", "8"])
    with pytest.raises(InputError, match=told):  # before any training
        make_rungs(["l0", "low_rank"], [0.5], "macs", 8)

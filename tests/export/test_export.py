"""The chain for real: dense model, pruning run, compact model, ESPnet's decoder."""

import copy
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import encoder_choices

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint, read_yaml
from espnet_prune.cli import export as program
from espnet_prune.export import compact_dir, place
from espnet_prune.export import export as exporting
from espnet_prune.export.export import check_budget, export
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.pruning.projection import project
from tests.fixtures.encoders import NEEDED, SIZES
from tests.fixtures.models import gated_conf


@pytest.fixture
def run_copy(pruned, tmp_path):
    """A copy of the pruning run, to be spoilt."""
    return shutil.copytree(pruned, tmp_path / "run", symlinks=True)


@pytest.mark.parametrize("int8", [False, True])
def test_stock_speech2text_decodes_with_the_compact_model(compact, data_dir, int8):
    decode = Speech2Text(
        compact / "config.yaml",
        compact / "pruned.pth",
        beam_size=2,
        quantize_asr_model=int8,  # swaps the linear layers for others
    )
    speech, _ = soundfile.read(data_dir / "utt00.wav")
    ((text, tokens, _, _), *_) = decode(speech)
    assert isinstance(text, str) and isinstance(tokens, list)


def test_without_the_registration_the_error_is_espnets(compact, monkeypatch):
    monkeypatch.delitem(encoder_choices.classes, "prunable_conformer")
    with pytest.raises(ValueError, match="--encoder must be one of"):
        Speech2Text(f"{compact}/config.yaml", f"{compact}/pruned.pth")


def test_compact_config_is_self_contained(compact, dense):
    config = read_yaml(compact / "config.yaml")
    assert config["model"] == "espnet"
    assert config["encoder"] == "prunable_conformer"
    assert set(config["model_conf"]) <= {"ctc_weight", "report_cer", "report_wer"}
    assert not [key for key in config if key.startswith("teacher")]
    text = (compact / "config.yaml").read_text()
    assert str(dense) not in text and "pruned" not in text
    statistics = config["normalize_conf"]["stats_file"]
    assert statistics == str(compact / "feats_stats.npz")
    ours, theirs = np.load(statistics), np.load(dense / "feats_stats.npz")
    assert all(np.array_equal(ours[k], theirs[k]) for k in theirs.files)
    names = {"config.yaml", "pruned.pth", "kept.pth", "pruning.json"}
    assert {p.name for p in compact.iterdir()} == names | {"feats_stats.npz"}


def test_summary_says_what_was_removed(compact, dense):
    summary = json.loads((compact / "pruning.json").read_text())
    assert 0.5 <= summary["realised"] <= 0.505
    assert summary["realised"] == summary["removed"]["params"]
    assert summary["max_relative_error"] <= 1e-4
    small, large = (
        sum(p.numel() for p in load_model(*files)[0].encoder.parameters())
        for files in (
            (compact / "config.yaml", compact / "pruned.pth"),
            (dense / "config.yaml", dense / "model.pth"),
        )
    )
    assert 1 - small / large == pytest.approx(summary["realised"])
    kept, whole = summary["architecture"], summary["dense_architecture"]
    assert kept == read_yaml(compact / "config.yaml")["encoder_conf"]["architecture"]
    sizes = {"ffn1": 32, "heads": 4, "qk_dim": 4, "v_dim": 4, "conv": 16, "ffn2": 32}
    assert whole == {"subsampling": [16, 16], "blocks": [sizes, sizes]}


def test_sizes_are_rounded_within_the_budget(pruned, tmp_path):
    files = pruned / "config.yaml", pruned / "latest.pth"
    summary = export(*files, tmp_path / "rounded", multiple=4)
    assert summary["round_to"] == 4
    for c in summary["constraints"]:
        assert c["realised"] >= c["target"]
    small, large = summary["architecture"], summary["dense_architecture"]
    for kept, dense in zip(small["blocks"], large["blocks"], strict=True):
        for unit in ("ffn1", "qk_dim", "v_dim", "conv", "ffn2"):
            assert kept[unit] % 4 == 0 or kept[unit] == dense[unit]


def test_unpruned_parts_keep_the_weights_of_the_run(compact, pruned):
    before, after = (
        {k: v for k, v in torch.load(path).items() if k.startswith(("decoder", "ctc"))}
        for path in (pruned / "latest.pth", compact / "pruned.pth")
    )
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["misses", "adds"])
def test_checkpoint_that_does_not_fit_is_refused_by_stock_espnet_too(
    compact, tmp_path, change
):
    """Which drops the result of its load."""
    state = torch.load(compact / "pruned.pth")
    name = "encoder.after_norm.bias"
    if change == "misses":
        del state[name]
    else:
        state[f"{name}.more"] = torch.zeros(1)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="bad.pth"):
        load_model(compact / "config.yaml", tmp_path / "bad.pth")
    with pytest.raises(RuntimeError, match="do not belong together"):
        Speech2Text(compact / "config.yaml", tmp_path / "bad.pth")


def test_unfinished_run_is_refused(run_copy, tmp_path):
    checkpoint = torch.load(run_copy / "checkpoint.pth", weights_only=False)
    checkpoint["reporter"]["epoch"] = 1
    torch.save(checkpoint, run_copy / "checkpoint.pth")
    with pytest.raises(InputError, match="after epoch 1 of 2"):
        export(run_copy / "config.yaml", run_copy / "latest.pth", tmp_path / "out")
    assert not (tmp_path / "out" / "pruned.pth").exists()


def test_dense_run_is_refused(dense, tmp_path):
    with pytest.raises(InputError, match="no gates"):
        export(dense / "config.yaml", dense / "model.pth", tmp_path / "out")


def other_model(compact, folder):
    """A finished export of other weights."""
    shutil.copytree(compact, folder)
    state = torch.load(folder / "pruned.pth")
    state["ctc.ctc_lo.bias"] += 1.0
    torch.save(state, folder / "pruned.pth")
    return folder


def digest_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("step", ["verify", "load_model", "write_json"])
def test_failed_export_leaves_the_one_before_or_none(
    pruned, compact, tmp_path, monkeypatch, step
):
    def fail(*_):
        raise RuntimeError("stopped here")

    old = other_model(compact, tmp_path / "old")
    before = digest_of(old)
    monkeypatch.setattr(place if step == "write_json" else compact_dir, step, fail)
    for out in (old, tmp_path / "new"):
        with pytest.raises(RuntimeError, match="stopped here"):
            export(pruned / "config.yaml", pruned / "latest.pth", out)
    assert digest_of(old) == before and list(tmp_path.iterdir()) == [old]


def test_what_was_made_of_an_export_stays_with_that_model(pruned, compact, tmp_path):
    files, out = (pruned / "config.yaml", pruned / "latest.pth"), tmp_path / "out"
    other_model(compact, out)
    (out / "finetuned.pth").write_text("of the old model")
    before = digest_of(out)
    export(*files, out)
    assert not (out / "finetuned.pth").exists()
    assert digest_of(tmp_path / "out.1") == before
    load_model(out / "config.yaml", out / "pruned.pth")
    (out / "finetuned.pth").write_text("of the new model")
    before = digest_of(out)
    export(*files, out)  # once more the same
    assert digest_of(out) == before and not (tmp_path / "out.2").exists()


def of_decoder(make_model, encoder) -> dict:
    """Config of a student whose decoder has gates, too."""
    conf = gated_conf(
        make_model(encoder_conf=encoder), {"denominator": "model"}, "decoder"
    )
    return {"model": "prune", "encoder_conf": encoder, "model_conf": conf}


@pytest.mark.parametrize(
    "part, name", [("encoder", "after_norm"), ("decoder", "output_layer")]
)
def test_verification_notices_a_wrong_weight(make_model, shake, part, name):
    student = shake(make_model(**of_decoder(make_model, SIZES | NEEDED))).eval()
    student.gates.mask = torch.ones(len(student.gates.layout))
    small = copy.deepcopy(student)
    small.gates = None
    assert compact_dir.verify(student, small) <= 3e-8  # in double precision
    bias = getattr(small, part).get_submodule(name).bias
    for wrong in (1.0, float("nan")):
        with torch.no_grad():
            bias[3] += wrong
        with pytest.raises(RuntimeError, match="differs"):
            compact_dir.verify(student, small)


def test_budget_is_held_against_a_second_count(pruned, tmp_path, monkeypatch):
    """By how much the compact model differs from what the budget says, either way."""
    model, _ = load_model(pruned / "config.yaml", pruned / "latest.pth")
    budget = model.sparsity.budget
    projection = project(model.gates, budget)
    (cost,) = budget.cost((projection.values != 0).double()).tolist()
    check_budget(budget, projection, {"params": cost})
    with pytest.raises(RuntimeError, match="by declaration, .* by counting"):
        check_budget(budget, projection, {"params": cost + 1})
    with pytest.raises(RuntimeError, match="is gone, the target is 0.6000"):
        check_budget(budget.at([0.6]), projection, {})
    with pytest.raises(RuntimeError, match="more of the encoder is gone than"):
        check_budget(budget.at([0.4]), projection, {})
    monkeypatch.setattr(exporting, "counted", lambda *_: {"params": cost + 1})
    with pytest.raises(RuntimeError, match="by declaration, .* by counting"):
        export(pruned / "config.yaml", pruned / "latest.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line_exports_the_last_epoch_of_a_pruning(
    run_copy, compact, tmp_path, monkeypatch
):
    """The best one by some criterion may be short of the target."""
    for path in (run_copy / "1epoch.pth", *run_copy.glob("*.best.pth")):
        path.unlink(missing_ok=True)
    for path in run_copy.glob("*.ave*.pth"):
        path.write_bytes(b"of another epoch")
    out = tmp_path / "out"
    argv = ["export", "--pruned", str(run_copy), "--out", str(out)]
    monkeypatch.setattr("sys.argv", argv)
    program.main()
    ours, theirs = (torch.load(d / "pruned.pth") for d in (out, compact))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    monkeypatch.setattr("sys.argv", [*argv, "--round_to", "0"])
    with pytest.raises(InputError, match="--round_to"):
        program.main()


def test_trained_weights_get_their_place_once_verified(compact, tmp_path, monkeypatch):
    out = shutil.copytree(compact, tmp_path / "compact")
    final = out / "finetuned.pth"
    state = torch.load(compact / "pruned.pth")
    with pytest.raises(InputError, match="ctc_lo.bias"):
        compact_dir.place_weights(
            {k: v for k, v in state.items() if k != "ctc.ctc_lo.bias"}, out
        )
    assert not final.exists()
    compact_dir.place_weights(state, out)
    first = fingerprint(final)
    # Made again by another process, the same weights are the same file.
    monkeypatch.setattr("os.getpid", lambda: 4321)
    compact_dir.place_weights(state, out)
    assert fingerprint(final) == first

"""The chain for real: dense model, pruning run, compact model, ESPnet's decoder."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint
from espnet_prune.export import compact_dir
from espnet_prune.export.export import export
from espnet_prune.families.espnet.architecture import Architecture
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.families.espnet.layers.structures import set_masks
from espnet_prune.pruning.gates import gates_of
from espnet_prune.pruning.projection import project
from tests.fixtures.encoders import NEEDED, SIZES


def read(path):
    return yaml.safe_load(path.read_text())


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


def test_without_the_import_the_error_is_espnets(compact, python):
    code = (
        "from espnet2.bin.asr_inference import Speech2Text\n"
        f"Speech2Text('{compact}/config.yaml', '{compact}/pruned.pth')"
    )
    result = python("-c", code)
    assert result.returncode != 0
    assert "--encoder must be one of" in result.stderr


def test_compact_config_is_self_contained(compact, dense):
    config = read(compact / "config.yaml")
    assert config["model"] == "espnet"
    assert config["encoder"] == "prunable_conformer"
    assert "gates" not in config["encoder_conf"]
    assert not {"sparsity", "distill", "macs_frames"} & set(config["model_conf"])
    assert not [key for key in config if key.startswith("teacher")]
    text = (compact / "config.yaml").read_text()
    assert str(dense) not in text and "pruned" not in text
    assert not [key for key in torch.load(compact / "pruned.pth") if "log_alpha" in key]


def test_compact_model_uses_its_own_copy_of_the_statistics(compact, dense):
    copied = read(compact / "config.yaml")["normalize_conf"]["stats_file"]
    assert copied == str(compact / "feats_stats.npz")
    ours, theirs = np.load(copied), np.load(dense / "feats_stats.npz")
    assert all(np.array_equal(ours[k], theirs[k]) for k in theirs.files)


def test_summary_says_what_was_removed(compact):
    summary = read(compact / "pruning.json")
    model, _ = load_model(compact / "config.yaml", compact / "pruned.pth")
    removed = summary["realised"]
    assert 0.5 <= removed <= 0.505
    assert removed == summary["removed"]["params"]
    assert summary["max_relative_error"] <= 1e-4
    dense = Architecture.from_dict(summary["dense_architecture"]).cost(
        model.encoder.fixed, 100
    )["encoder"]
    params = sum(p.numel() for p in model.encoder.parameters())
    assert 1 - params / dense.params == pytest.approx(removed)


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


def test_only_final_files_are_left(compact):
    names = {"config.yaml", "pruned.pth", "pruning.json", "feats_stats.npz"}
    assert {p.name for p in compact.iterdir()} == names


def test_unpruned_parts_keep_the_weights_of_the_run(compact, pruned):
    before = torch.load(pruned / "latest.pth")
    after = torch.load(compact / "pruned.pth")
    for key in after:
        if not key.startswith("encoder."):
            assert torch.equal(before[key], after[key]), key
    assert set(after) >= {k for k in before if k.startswith(("decoder", "ctc"))}


@pytest.mark.parametrize("part", ["encoder.after_norm.bias", "ctc.ctc_lo.bias"])
@pytest.mark.parametrize("change", ["misses", "adds"])
def test_checkpoint_that_does_not_fit_is_refused(compact, tmp_path, part, change):
    state = torch.load(compact / "pruned.pth")
    if change == "misses":
        del state[part]
    else:
        state[f"{part}.more"] = torch.zeros(1)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="bad.pth"):
        load_model(compact / "config.yaml", tmp_path / "bad.pth")
    if part.startswith("encoder"):  # stock ESPnet drops the result of its load
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


@pytest.mark.parametrize("step", ["verify", "load_model", "write_json"])
def test_failed_export_leaves_no_final_file(pruned, tmp_path, monkeypatch, step):
    def fail(*_):
        raise RuntimeError("stopped here")

    monkeypatch.setattr(compact_dir, step, fail)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped here"):
        export(pruned / "config.yaml", pruned / "latest.pth", out)
    assert not list(tmp_path.iterdir())


def test_failed_export_leaves_the_files_of_the_one_before(
    pruned, compact, tmp_path, monkeypatch, digest_of
):
    out = other_model(compact, tmp_path / "out")
    before = digest_of(out)

    def fail(*_):
        raise RuntimeError("stopped here")

    monkeypatch.setattr(compact_dir, "verify", fail)
    with pytest.raises(RuntimeError, match="stopped here"):
        export(pruned / "config.yaml", pruned / "latest.pth", out)
    assert digest_of(out) == before


def test_same_export_again_keeps_what_was_made_from_it(pruned, compact, tmp_path):
    out = tmp_path / "out"
    export(pruned / "config.yaml", pruned / "latest.pth", out)
    (out / "finetuned.pth").touch()
    export(pruned / "config.yaml", pruned / "latest.pth", out)
    assert (out / "finetuned.pth").exists() and len(list(tmp_path.iterdir())) == 1


def test_new_export_does_not_inherit_the_results_of_the_old_one(
    pruned, compact, tmp_path, digest_of
):
    out = other_model(compact, tmp_path / "out")
    (out / "finetuned.pth").write_text("of the old model")
    before = digest_of(out)
    export(pruned / "config.yaml", pruned / "latest.pth", out)
    assert not (out / "finetuned.pth").exists()
    assert digest_of(tmp_path / "out.1") == before
    load_model(out / "config.yaml", out / "pruned.pth")


def test_config_of_the_export_names_its_own_files(compact):
    config = yaml.safe_load((compact / "config.yaml").read_text())
    named = [config["bpemodel"], (config["normalize_conf"] or {}).get("stats_file")]
    for path in filter(None, named):
        assert Path(path).parent == compact and Path(path).exists()


def other_model(compact, folder):
    """A finished export of other weights."""
    shutil.copytree(compact, folder)
    state = torch.load(folder / "pruned.pth")
    state["ctc.ctc_lo.bias"] += 1.0
    torch.save(state, folder / "pruned.pth")
    return folder


@pytest.fixture
def digest_of():
    return lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}


def test_verification_notices_a_wrong_weight(pruned, compact):
    gated, _ = load_model(pruned / "config.yaml", pruned / "latest.pth")
    projection = project(gated.encoder, gated.sparsity.budget)
    gated.encoder.set_masks(projection.masks)
    small, _ = load_model(compact / "config.yaml", compact / "pruned.pth")
    assert compact_dir.verify(gated, small) <= 3e-8  # in double precision
    with torch.no_grad():
        small.encoder.encoders[0].norm_final.bias[0] += 1.0
    with pytest.raises(RuntimeError, match="differs"):
        compact_dir.verify(gated, small)
    with torch.no_grad():
        small.encoder.encoders[0].norm_final.bias[0] = float("nan")
    with pytest.raises(RuntimeError, match="differs"):
        compact_dir.verify(gated, small)


def test_verification_notices_a_wrong_weight_of_the_decoder(make_model):
    gates = {"gates": {"mode": "straight_through"}}
    decoder = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    gated = make_model(
        encoder="prunable_conformer",
        encoder_conf=SIZES | NEEDED | gates,
        decoder="prunable_transformer",
        decoder_conf=decoder | gates,
    ).eval()
    set_masks(gated, {n: torch.ones(len(g)) for n, g in gates_of(gated).items()})
    small = copy.deepcopy(gated)
    assert compact_dir.verify(gated, small) == 0
    with torch.no_grad():
        small.decoder.output_layer.bias[3] += 1.0
    with pytest.raises(RuntimeError, match="differs"):
        compact_dir.verify(gated, small)


def test_command_line_exports_a_run(run_copy, tmp_path, monkeypatch):
    from espnet_prune.cli.export import main

    out = tmp_path / "out"
    monkeypatch.setattr(
        "sys.argv", ["export", "--pruned", str(run_copy), "--out", str(out)]
    )
    main()
    assert (out / "pruned.pth").exists()


def test_finish_gives_the_averaged_weights_their_place_once_verified(
    compact, tmp_path, monkeypatch
):
    from espnet_prune.cli.prune_train import finish

    averaged, final = tmp_path / "valid.acc.ave.pth", tmp_path / "finetuned.pth"
    with pytest.raises(InputError, match="was not written"):
        finish(averaged, compact / "config.yaml", final)
    state = torch.load(compact / "pruned.pth")
    torch.save({k: v for k, v in state.items() if k != "ctc.ctc_lo.bias"}, averaged)
    with pytest.raises(InputError, match="ctc_lo.bias"):
        finish(averaged, compact / "config.yaml", final)
    assert not final.exists()
    torch.save(state, averaged)
    finish(averaged, compact / "config.yaml", final)
    first = fingerprint(final)
    # Made again by another process, the same weights are the same file.
    monkeypatch.setattr("os.getpid", lambda: 4321)
    finish(averaged, compact / "config.yaml", final)
    assert fingerprint(final) == first

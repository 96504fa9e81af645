"""Every method to its end: stages 12 to 14, then ESPnet's own decoder."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.base.errors import InputError
from espnet_prune.config.methods import METHODS


@pytest.fixture
def stage(dense, data_options, tmp_path, monkeypatch):
    """``stage(module, *options)``: run a stage's program in this process."""
    from espnet_prune.cli import export, prune_train

    def run(name, *options):
        program = {"export": export, "train": prune_train}[name]
        argv = [name, *map(str, options)]
        if name == "train":
            argv += ["--recipe", str(tmp_path / "recipe.yaml"), "--resume", "true"]
            argv += ["--teacher_config", str(dense / "config.yaml")]
            argv += ["--teacher_model", str(dense / "model.pth"), *data_options]
        monkeypatch.setattr(sys, "argv", argv)
        program.main()

    return run


DECODER_TOO = {"sparsity": {"macs_seconds": 1.0, "denominator": "model"}}
DECODER_TOO |= {"prune_decoder": True}
MODEL_DIM_TOO = {"gates": {"model_dim": True}}


@pytest.mark.parametrize(
    ("method", "recipe"),
    [(method, {}) for method in METHODS]
    + [(m, DECODER_TOO) for m in ("l0", "iterative", "magnitude", "random")]
    + [(m, MODEL_DIM_TOO) for m in METHODS if not m.startswith("small")]
    + [("l0", DECODER_TOO | MODEL_DIM_TOO)],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else x,
)
def test_every_method_ends_in_a_model_that_stock_speech2text_decodes(
    stage, dense, tmp_path, caplog, method, recipe
):
    from espnet2.bin.asr_inference import Speech2Text

    from tests.fixtures.runs import RECIPE

    criterion = {"best_model_criterion": [["valid", "loss", "min"]], "max_epoch": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | criterion | recipe))
    config = yaml.safe_load((dense / "config.yaml").read_text())
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    start = ["--method", method, "--model_config", dense / "config.yaml"]
    start += ["--model_file", dense / "model.pth", "--kind", "params+macs"]
    stage("train", "--phase", "prune", *start, "--output_dir", pruned)
    logging.root.addHandler(caplog.handler)  # which ESPnet's training takes away
    with caplog.at_level(logging.INFO):
        stage("export", "--pruned", pruned, "--out", compact)
    summary = json.loads((compact / "pruning.json").read_text())
    assert summary["method"] == method
    kept, dense_dim = summary["model_dim"]
    if method in ("small", "small_distilled"):
        assert kept < dense_dim == 16
    if "gates" in recipe:
        # So short a training closes none, and blocks are not made narrower.
        may_stay = method in ("l0", "l0_alone", "blocks")
        assert kept <= dense_dim == 16 and (may_stay or kept < dense_dim)
    if "prune_decoder" in recipe:
        assert summary["decoder"] != summary["dense_decoder"]
        gone = whole_models_gone(dense, compact, summary)
        told = [c["realised"] for c in summary["constraints"]]
        assert gone == pytest.approx(told, abs=1e-6)
        for fraction, kind in zip(gone, ("params", "macs"), strict=True):
            assert f"model: {fraction:.1%} of the {kind} gone" in caplog.text
    else:
        assert "the target is" not in caplog.text  # the encoder's is told already
        gone = list(summary["removed"].values())
    # A model of two units cannot use its budget up: blocks and sizes come in lumps.
    assert 0.5 <= min(gone) < 0.7
    start = ["--method", method, "--model_config", compact / "config.yaml"]
    start += ["--model_file", compact / "pruned.pth"]
    final = ["--final", compact / "finetuned.pth"]
    out = ["--output_dir", compact / "finetune"]
    stage("train", "--phase", "finetune", *start, *final, *out)

    speech = Speech2Text(
        str(compact / "config.yaml"), str(compact / "finetuned.pth"), beam_size=2
    )
    kept = sum(p.numel() for p in speech.asr_model.encoder.parameters())
    assert kept == params_left(summary, config)
    speech(np.random.default_rng(0).standard_normal(8000).astype(np.float32))


@pytest.mark.parametrize("method", ["l0", "small_distilled"])
def test_fine_tuning_goes_on_with_the_projection_that_was_learned(
    stage, dense, tmp_path, method
):
    from tests.fixtures.runs import RECIPE

    recipe = RECIPE | {"max_epoch": 1, "distill": {"projection": True}}
    criterion = {"best_model_criterion": [["valid", "loss", "min"]]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | criterion))
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    start = ["--method", method, "--model_config", dense / "config.yaml"]
    start += ["--model_file", dense / "model.pth", "--kind", "params+macs"]
    stage("train", "--phase", "prune", *start, "--output_dir", pruned)
    stage("export", "--pruned", pruned, "--out", compact)
    learned = torch.load(compact / "projection.pth")["projection.weight"]
    assert not torch.equal(learned, torch.eye(*learned.shape))

    start = ["--method", method, "--model_config", compact / "config.yaml"]
    start += ["--model_file", compact / "pruned.pth", "--optim_conf", "lr=0.0"]
    for name, options in {
        "with": ["--distill", "layer_weight=1"],
        "without": ["--distill", "layer_weight=0"],
    }.items():
        out = ["--output_dir", compact / name]
        stage("train", "--phase", "finetune", *start, *options, *out)
    state = torch.load(compact / "with/latest.pth")
    assert torch.equal(state["projection.weight"], learned)
    assert "projection.weight" not in torch.load(compact / "without/latest.pth")


def test_one_shot_run_of_another_seed_is_refused(stage, dense, tmp_path):
    from tests.fixtures.runs import RECIPE

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    start = ["--method", "random", "--model_config", dense / "config.yaml"]
    start += ["--model_file", dense / "model.pth", "--output_dir", tmp_path / "pruned"]
    train = ["train", "--phase", "prune", *start]
    stage(*train)
    first = (tmp_path / "pruned" / "latest.pth").read_bytes()
    stage(*train)
    with pytest.raises(InputError, match="training of other options"):
        stage(*train, "--seed", 777)
    assert (tmp_path / "pruned" / "latest.pth").read_bytes() == first
    other = ["--output_dir", tmp_path / "other", "--seed", 777]
    stage(*train, *other)
    gates = [torch.load(tmp_path / d / "latest.pth") for d in ("pruned", "other")]
    name = "encoder.encoders.0.feed_forward.unit_gate.log_alpha"
    assert not torch.equal(*(state[name] for state in gates))


def whole_models_gone(dense, compact, summary) -> list[float]:
    """Fractions of all parameters and MACs of one hypothesis, by counting both."""
    from espnet_prune.families.espnet.checkpoint import load_model

    pairs = (dense / "config.yaml", dense / "model.pth")
    large, small = load_model(*pairs)[0], load_model(*written(compact))[0]
    params = [sum(p.numel() for p in m.parameters()) for m in (large, small)]
    macs = [whole_macs(m.eval(), summary["macs_frames"], 30) for m in (large, small)]
    return [1 - after / before for before, after in (params, macs)]


def written(compact):
    return compact / "config.yaml", compact / "pruned.pth"


def whole_macs(model, frames, tokens) -> float:
    features = torch.zeros(1, frames, model.encoder.embed.conv[0].in_channels * 20)
    counter = FlopCounterMode(display=False)
    with counter, torch.enable_grad():  # layer by layer, as the formula counts
        out, lengths, _ = model.encoder(
            features.requires_grad_(), torch.tensor([frames])
        )
        model.ctc.ctc_lo(out)
        ids = torch.ones(1, tokens, dtype=torch.long)
        model.decoder(out, lengths, ids, torch.tensor([tokens]))
    return counter.get_total_flops() / 2


def params_left(summary, config) -> int:
    from espnet_prune.families.espnet.conformer import PrunableConformerEncoder

    conf = {k: v for k, v in config["encoder_conf"].items() if k != "input_layer"}
    dense = PrunableConformerEncoder(20, **conf)
    params = sum(p.numel() for p in dense.parameters())
    return round(params * (1 - summary["removed"]["params"]))

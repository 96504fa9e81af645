"""Every method to its end: stages 12 to 14, then ESPnet's own decoder."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from espnet2.bin.asr_inference import Speech2Text
from torch.utils.flop_counter import FlopCounterMode

from espnet_prune.base.errors import InputError
from espnet_prune.cli import export as program
from espnet_prune.config.methods import METHODS
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.report.tables import kept_table
from espnet_prune.serving.load import load

SHORT = {"best_model_criterion": [["valid", "loss", "min"]], "max_epoch": 1}
DECODER_TOO = {"sparsity": {"macs_seconds": 1.0, "denominator": "model"}}
DECODER_TOO |= {"prune_decoder": True}
MODEL_DIM_TOO = {"gates": {"model_dim": True}}
BOTH_KINDS = ("--kind", "params+macs", "--target", 0.5)


@pytest.fixture
def export(monkeypatch):
    """``export(pruned, out)``: stage 13; gives back ``pruning.json``."""

    def run(pruned, out):
        argv = ["export", "--pruned", str(pruned), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", argv)
        program.main()
        return json.loads((out / "pruning.json").read_text())

    return run


def files_of(compact, weights="pruned.pth"):
    return compact / "config.yaml", compact / weights


def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(8000).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [(method, {}) for method in METHODS]
    + [(m, DECODER_TOO) for m in ("l0", "random")]
    + [(m, MODEL_DIM_TOO) for m in ("l0", "iterative", "magnitude", "blocks")]
    + [("l0", DECODER_TOO | MODEL_DIM_TOO)],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else x,
)
def test_every_method_ends_in_a_model_that_stock_speech2text_decodes(
    train, export, dense, tmp_path, caplog, method, recipe
):
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    train(pruned, "--method", method, *BOTH_KINDS, **SHORT | recipe)
    logging.root.addHandler(caplog.handler)  # which ESPnet's training takes away
    with caplog.at_level(logging.INFO):
        summary = export(pruned, compact)
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
    tune = ("--method", method, "--compact", compact)
    train(compact / "finetune", *tune, **SHORT)
    files = map(str, files_of(compact, "finetuned.pth"))
    speech2text = Speech2Text(*files, beam_size=2)
    large, _ = load_model(dense / "config.yaml", dense / "model.pth")
    left = params(speech2text.asr_model.encoder) / params(large.encoder)
    assert 1 - left == pytest.approx(summary["removed"]["params"])
    speech2text(noise())


def test_block_that_lost_everything_is_gone_from_the_compact_model(
    train, export, dense, tmp_path
):
    """Its norm and its bias would cost what nobody counts, and take time."""
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    state = train(pruned, *BOTH_KINDS, **SHORT)
    student, _ = load_model(pruned / "config.yaml", pruned / "latest.pth")
    layout = student.gates.layout
    second = [s for s in layout.structures if s.name.startswith("encoder.encoders.1.")]
    closed = torch.zeros(len(layout), dtype=torch.bool)
    for structure in second:
        closed[layout.span(structure.name)] = structure.parent is None
    state["gates.log_alpha"] = torch.where(closed[layout.learned], -4.0, 4.0)
    torch.save(state, pruned / "latest.pth")
    summary = export(pruned, compact)

    first, gone = summary["architecture"]["blocks"]
    assert gone is None and sum(first.values())
    table = kept_table(summary)
    assert table.rows[1] == ["2"] + ["gone"] * len(table.header[1:])
    weights = torch.load(compact / "pruned.pth")
    assert not [name for name in weights if name.startswith("encoder.encoders.1.")]
    large, _ = load_model(dense / "config.yaml", dense / "model.pth")
    small, _ = load_model(*files_of(compact))
    removed = 1 - params(small.encoder) / params(large.encoder)
    assert removed == pytest.approx(summary["removed"]["params"])

    final = files_of(compact, "finetuned.pth")
    train(compact / "finetune", "--compact", compact, **SHORT)
    tuned = torch.load(final[1])
    assert tuned.keys() == weights.keys()
    assert not torch.equal(tuned["ctc.ctc_lo.bias"], weights["ctc.ctc_lo.bias"])
    plain = Speech2Text(*map(str, final), beam_size=2)
    fast = load(*final, beam_size=2)
    assert type(fast.asr_model.encoder) is not type(plain.asr_model.encoder)
    audio = torch.from_numpy(noise())[None], torch.tensor([len(noise())])
    found, expected = (decoder.asr_model.encode(*audio) for decoder in (fast, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert fast(noise())[0][0] == plain(noise())[0][0]


@pytest.mark.parametrize("method", ["iterative", "small_distilled"])
def test_fine_tuning_goes_on_with_the_projection_that_was_learned(
    train, export, tmp_path, method
):
    """Where the channels of a block are not those of the teacher's."""
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    recipe = MODEL_DIM_TOO if METHODS[method].gated else {}
    train(pruned, "--method", method, *BOTH_KINDS, **SHORT | recipe)
    export(pruned, compact)
    learned = torch.load(compact / "projection.pth")["projection.weight"]
    assert not torch.equal(learned, torch.eye(*learned.shape))
    for weight in (1, 0):
        options = ("--method", method, "--distill", f"layer_weight={weight}")
        options += ("--compact", compact, "--optim_conf", "lr=0.0")
        state = train(compact / f"weight{weight}", *options, **SHORT)
        if weight:
            assert torch.equal(state["projection.weight"], learned)
        assert ("projection.weight" in state) == bool(weight)


def test_one_shot_run_of_another_seed_is_refused(train, tmp_path):
    def random(name, *options):
        return train(tmp_path / name, "--method", "random", *options)

    first = random("pruned")
    before = (tmp_path / "pruned/latest.pth").read_bytes()
    random("pruned")
    with pytest.raises(InputError, match="training of other options"):
        random("pruned", "--seed", 777)
    assert (tmp_path / "pruned/latest.pth").read_bytes() == before
    other = random("other", "--seed", 777)
    assert not torch.equal(first["gates.log_alpha"], other["gates.log_alpha"])


def params(module) -> int:
    return sum(p.numel() for p in module.parameters())


def whole_models_gone(dense, compact, summary) -> list[float]:
    """Fractions of all parameters and MACs of one hypothesis, by counting both."""
    large, small = (
        load_model(*files)[0].eval()
        for files in ((dense / "config.yaml", dense / "model.pth"), files_of(compact))
    )
    frames = summary["macs_frames"]
    pairs = [(params(m), whole_macs(m, frames, 30)) for m in (large, small)]
    return [1 - after / before for before, after in zip(*pairs, strict=True)]


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

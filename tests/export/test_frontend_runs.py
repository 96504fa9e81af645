"""An ASR model whose self-supervised frontend is pruned, too: by the task's loss."""

import shutil

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

from espnet_prune.cli import prune_train
from espnet_prune.export.compact_dir import verify
from espnet_prune.export.export import export
from espnet_prune.export.pack import pack
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.pruning.projection import project
from tests.fixtures.frontends import SPECAUG
from tests.fixtures.runs import RECIPE

SPARSITY = {"denominator": "model", "macs_seconds": 0.5, "macs_tokens": 5}
STRIDES = {"conv_kernel": [10, 4, 4], "conv_stride": [5, 4, 4]}  # few frames
METHODS = {
    "hubert_base": "l0",
    "wavlm_large": "iterative",
    "wav2vec2_base": "magnitude",
}


@pytest.fixture(scope="module")
def runs(make_dense, make_frontend, data_options, tmp_path_factory):
    """``runs(case)``: directories of a dense model, its pruning, and its export; and
    a program that trains further."""
    found = {}

    def make(case):
        if case in found:
            return found[case]
        folder = tmp_path_factory.mktemp("runs")
        options = make_frontend(case, **STRIDES)
        dense = make_dense(**options, specaug="specaug", specaug_conf=SPECAUG)
        recipe = RECIPE | {"prune_frontend": True, "sparsity": SPARSITY}
        recipe |= {"max_epoch": 1, "best_model_criterion": [["valid", "loss", "min"]]}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

        def train(out, *more):
            command = ["--recipe", folder / "recipe.yaml", "--output_dir", out]
            command += ["--teacher_config", dense / "config.yaml"]
            command += ["--teacher_model", dense / "model.pth", *data_options, *more]
            prune_train.main([*map(str, command)])

        pruned, compact = folder / "pruned", folder / "compact"
        target = ["--kind", "params+macs", "--target", "0.5"]
        if METHODS[case] == "magnitude":
            target += ["--sparsity", "groups.frontend=0.6"]
        train(pruned, *target, "--method", METHODS[case])
        summary = export(pruned / "config.yaml", pruned / "latest.pth", compact)
        hidden = options["frontend_conf"]["frontend_conf"]["path_or_url"]
        found[case] = dense, pruned, compact, summary, hidden, train
        return found[case]

    return make


@pytest.mark.parametrize("case", METHODS)
def test_what_espnet_loads_computes_what_the_gated_model_did(runs, case, tmp_path):
    dense, pruned, compact, summary, hidden, _ = runs(case)
    for part in summary["constraints"]:
        assert part["realised"] >= part["target"]
        assert part["of"] != "frontend" or part["target"] == pytest.approx(0.6)
    names = {"model"} if METHODS[case] != "magnitude" else {"frontend", "others"}
    assert names == {part["of"] for part in summary["constraints"]}
    whole, left = torch.load(dense / "model.pth"), torch.load(compact / "pruned.pth")
    at = "frontend.upstream."
    sizes = [
        sum(x.numel() for k, x in s.items() if k.startswith(at)) for s in (whole, left)
    ]
    assert sizes[1] < 0.8 * sizes[0]
    trained = METHODS[case] != "magnitude"
    for name in (
        "featurizer.weights",
        "upstream.upstream.model.encoder.layer_norm.bias",
    ):
        assert whole[f"frontend.{name}"].equal(left[f"frontend.{name}"]) is not trained
    kept = [name for name in whole if name.startswith("preencoder.")]
    assert kept and all(whole[name].equal(left[name]) for name in kept)
    shutil.move(hidden, tmp_path / "elsewhere")  # nothing of it is needed any more
    pack(compact / "config.yaml", compact / "pruned.pth", "", tmp_path / "a.zip")
    decoder = Speech2Text(compact / "config.yaml", compact / "pruned.pth", beam_size=2)
    files = unpack(tmp_path / "a.zip", tmp_path / "unpacked")
    packed = Speech2Text(**files, beam_size=2)
    audio = torch.randn(8000)
    assert packed(audio)[0][2] == decoder(audio)[0][2]
    shutil.move(tmp_path / "elsewhere", hidden)
    student, _ = load_model(pruned / "config.yaml", pruned / "latest.pth")
    student.gates.mask = project(student.gates, student.sparsity.budget).values
    assert verify(student, decoder.asr_model.double()) <= 1e-6


def test_what_is_fine_tuned_learns_in_its_frontend_too(runs, tmp_path):
    _, _, compact, _, _, train = runs("hubert_base")
    train(tmp_path / "tuned", "--compact", compact)
    told = yaml.safe_load((tmp_path / "tuned/config.yaml").read_text())
    assert told["freeze_param"] == ["preencoder"]
    assert told["model_conf"]["prune_frontend"]
    before, after = (
        torch.load(file)
        for file in (compact / "pruned.pth", tmp_path / "tuned/latest.pth")
    )
    for name in before:
        learns = not name.startswith("preencoder.")
        if "layer_norm.weight" in name or name.startswith(("preencoder.", "ctc.")):
            assert after[name].equal(before[name]) is not learns, name

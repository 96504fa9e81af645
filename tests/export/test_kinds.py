"""Every kind of encoder, with its decoder: pruned, exported, loaded by ESPnet."""

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.cli import prune_train
from espnet_prune.export.compact_dir import verify
from espnet_prune.export.export import export
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.pruning.projection import project
from tests.fixtures.gated import CASES, CONDITIONED
from tests.fixtures.runs import RECIPE

OTHERS = {  # case -> its gates
    "conformer": {"model_dim": True},
    "conformer_by_8": {},
    "transformer": {},
    "e_branchformer": {},
    "branchformer": {},
    "contextual_block_conformer": {},
    "contextual_block_transformer": {},
    **dict.fromkeys(CONDITIONED, {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_espnet_loads_computes_what_the_gated_model_did(
    name, make_dense, data_options, tmp_path
):
    case, gates = CASES[name], OTHERS[name]
    dense = make_dense(encoder=case.ours.kind.name, encoder_conf=case.conf)
    sparsity = {"macs_seconds": 1.0, "macs_tokens": 5, "denominator": "model"}
    recipe = RECIPE | {"gates": gates, "sparsity": sparsity, "prune_decoder": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pruned, compact = tmp_path / "pruned", tmp_path / "compact"
    command = ["--recipe", tmp_path / "recipe.yaml", "--output_dir", pruned]
    command += ["--teacher_config", dense / "config.yaml"]
    command += ["--teacher_model", dense / "model.pth", "--method", "random"]
    command += ["--kind", "params+macs", "--target", "0.4", *data_options]
    prune_train.main([*map(str, command)])
    summary = export(pruned / "config.yaml", pruned / "latest.pth", compact)
    realised = [part["realised"] for part in summary["constraints"]]
    assert 0.4 <= min(realised) < 0.45  # of the kind that was met last
    decoder = Speech2Text(compact / "config.yaml", compact / "pruned.pth", beam_size=2)
    student, _ = load_model(pruned / "config.yaml", pruned / "latest.pth")
    student.gates.mask = project(student.gates, student.sparsity.budget).values
    assert verify(student, decoder.asr_model.double()) <= 1e-6
    parameters = sum(p.numel() for p in decoder.asr_model.parameters())
    whole = sum(x.numel() for x in torch.load(dense / "model.pth").values())
    assert parameters < 0.65 * whole
    assert decoder.asr_model.float() and decoder(torch.randn(8000))[0][0] is not None

"""A recognizer that hears by an upstream of s3prl's own, translated to be pruned."""

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.cli import prune_train, translate_frontend
from espnet_prune.export.export import export
from espnet_prune.families.espnet.checkpoint import load_model
from tests.fixtures.encoders import NEEDED, NO_DROPOUT, SIZES
from tests.fixtures.runs import RECIPE


def on_upstream(name):
    """Config keys of a model as ESPnet's recipes have them."""
    return {
        "frontend": "s3prl",
        "frontend_conf": {
            "frontend_conf": {"upstream": name},
            "download_dir": "hub",
            "multilayer_feature": True,
        },
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "preencoder": "linear",
        "preencoder_conf": {"input_size": 768, "output_size": 12},
        "encoder_conf": SIZES | NEEDED | NO_DROPOUT | {"input_layer": "conv2d1"},
    }


def translate(folder, out):
    files = ["--config", folder / "config.yaml", "--model", folder / "model.pth"]
    translate_frontend.main([*map(str, [*files, "--out", out])])
    return out / "config.yaml", out / "model.pth"


def test_a_recognizer_is_translated_and_pruned_with_its_upstream(
    published, make_dense, data_options, tmp_path
):
    published("wavlm_large")
    dense = make_dense(**on_upstream("wavlm_large"))
    stock, _ = load_model(dense / "config.yaml", dense / "model.pth")
    published(None)  # from here on s3prl has nothing of it
    files = translate(dense, tmp_path / "translated")
    model, told = load_model(*files)
    assert "download_dir" not in told.frontend_conf
    speech, lengths = 0.02 * torch.randn(1, 8000), torch.tensor([8000])
    with torch.no_grad():
        (own, numbers), (wanted, counted) = (
            m.encode(speech, lengths) for m in (model, stock)
        )
    assert numbers.equal(counted)
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4)
    recipe, compact = tmp_path / "recipe.yaml", tmp_path / "compact"
    sparsity = {"denominator": "model", "macs_seconds": 0.5, "macs_tokens": 5}
    options = {"prune_frontend": True, "sparsity": sparsity}
    recipe.write_text(yaml.safe_dump(RECIPE | options))
    command = ["--recipe", recipe, "--output_dir", tmp_path / "pruned"]
    command += ["--method", "magnitude", "--kind", "params", "--target", "0.5"]

    def prune(config, weights):
        given = ["--teacher_config", config, "--teacher_model", weights]
        prune_train.main([*map(str, [*command, *given]), *data_options])

    with pytest.raises(InputError, match="'wavlm_large' .* as it is -> translate the"):
        prune(dense / "config.yaml", dense / "model.pth")
    prune(*files)
    export(tmp_path / "pruned/config.yaml", tmp_path / "pruned/latest.pth", compact)
    small, told = load_model(compact / "config.yaml", compact / "pruned.pth")
    held = told.frontend_conf["frontend_conf"]
    assert held["upstream"] == "espnet_prune"
    assert held["extra_conf"]["preprocessor"]["variance_floor"] == 1e-5
    sizes = [sum(p.numel() for p in m.frontend.parameters()) for m in (model, small)]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "model.pth: its encoder has no encoder.pos_conv.0.weight_v"),
        ({"extra_conf": {"a": 1}}, "config.yaml: extra_conf of its upstream cannot be"),
        ({"upstream": "data2vec"}, "upstream 'data2vec' cannot be .*wavlm_large"),
        ({"upstream": "espnet_prune"}, "upstream 'espnet_prune' cannot be translated"),
    ],
)
def test_what_cannot_be_translated_is_refused_and_nothing_is_left(
    change, told, dense, tmp_path
):
    config = yaml.safe_load((dense / "config.yaml").read_text())
    upstream = {"upstream": "wavlm_large"} | change
    config |= {"frontend": "s3prl", "frontend_conf": {"frontend_conf": upstream}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "model.pth").symlink_to(dense / "model.pth")
    with pytest.raises(InputError, match=told):
        translate(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_exists_is_kept(dense):
    with pytest.raises(InputError, match="exists already"):
        translate(dense, dense)
    assert (dense / "model.pth").is_file()

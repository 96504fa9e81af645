"""What comes before the encoder is the teacher's, in every training of a student."""

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from espnet_prune.cli import prune_train
from espnet_prune.export.export import export
from espnet_prune.serving.load import load
from tests.families.test_speech_encoders import BASE, TINY
from tests.fixtures.encoders import NEEDED, NO_DROPOUT, SIZES, shaken
from tests.fixtures.runs import RECIPE

ONE_BLOCK = SIZES | NEEDED | NO_DROPOUT | {"num_blocks": 1}


def pruned(folder, dense, method, data_options):
    """Prune, in one epoch, and export."""
    pruned, compact = folder / "pruned", folder / "compact"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"max_epoch": 1}))
    command = ["--recipe", folder / "recipe.yaml", "--output_dir", pruned]
    command += ["--teacher_config", dense / "config.yaml", "--method", method]
    command += ["--teacher_model", dense / "model.pth", "--max_epoch", "1"]
    prune_train.main([*map(str, [*command, *data_options])])
    export(pruned / "config.yaml", pruned / "latest.pth", compact)
    return compact


def check(dense, compact):
    """What is before the encoder is the teacher's, and the encoder is not."""
    whole, left = torch.load(dense / "model.pth"), torch.load(compact / "pruned.pth")
    parts = "frontend.upstream.", "frontend.featurizer.", "preencoder."
    before = [key for key in whole if key.startswith(parts)]
    assert any(key.startswith("preencoder.") for key in before)
    for key in before:
        assert torch.equal(left[key], whole[key])
    changed = [k for k in whole if k in left and not left[k].equal(whole[k])]
    assert any(key.startswith("encoder.") for key in changed)


@pytest.mark.parametrize("method", ["l0", "small_distilled"])
def test_a_linear_preencoder_stays(method, make_dense, data_options, tmp_path):
    dense = make_dense(
        encoder_conf=ONE_BLOCK | {"input_layer": "conv2d2"},
        preencoder="linear",
        preencoder_conf={"input_size": 20, "output_size": 12},
    )
    compact = pruned(tmp_path, dense, method, data_options)
    check(dense, compact)
    files = compact / "config.yaml", compact / "pruned.pth"
    assert Speech2Text(*map(str, files), beam_size=2)(torch.randn(8000))


def test_a_self_supervised_frontend_stays(make_dense, data_options, tmp_path):
    """As in the recipes of ESPnet that put WavLM before a Conformer."""
    torch.manual_seed(0)
    model = shaken(HubertModel(HubertConfig(**TINY, **BASE)))
    model.save_pretrained(tmp_path / "hubert")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(tmp_path / "hubert")
    names = {"upstream": "espnet_prune", "path_or_url": str(tmp_path / "hubert")}
    dense = make_dense(
        frontend="s3prl",
        frontend_conf={"frontend_conf": names, "multilayer_feature": True},
        normalize="utterance_mvn",
        normalize_conf={},
        encoder_conf=ONE_BLOCK | {"input_layer": "conv2d1"},
        preencoder="linear",
        preencoder_conf={"input_size": model.config.hidden_size, "output_size": 12},
    )
    compact = pruned(tmp_path, dense, "l0", data_options)
    check(dense, compact)
    model = load(compact / "config.yaml", compact / "pruned.pth", "int8", beam_size=2)
    assert model(torch.randn(8000))[0][0] is not None

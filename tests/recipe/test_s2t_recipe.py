"""OWSM through the recipe, and from Python: its three texts go along."""

import json
import shutil

import pytest
import yaml
from espnet2.bin.s2t_inference import Speech2Text

import espnet_prune
from espnet_prune.base.table import read_table
from tests.recipe_copy import copy_recipe, start

pytestmark = pytest.mark.slow  # the stages of the shell, and prune(), with that task
SHORT = ["--max_epoch", "1", "--batch_bins", "40000", "--distill", "layers=2"]
SHORT += ["--use_matplotlib", "false", "--use_tensorboard", "false"]


@pytest.fixture
def spoken(s2t_data, data_dir, tmp_path):
    """Directory of the same data to test with: plain words."""
    folder = shutil.copytree(s2t_data, tmp_path / "spoken")
    for name in ("text.prev", "text.ctc"):
        (folder / name).unlink()
    shutil.copy(data_dir / "text", folder)
    return folder


def test_recipe_goes_from_data_of_s2t_to_a_report(
    owsm, s2t_data, spoken, tmp_path, monkeypatch
):
    search = {"beam_size": 2, "maxlenratio": -6, "ctc_weight": 0.0, "lang_sym": "eng"}
    recipe = copy_recipe(tmp_path)
    (recipe / "decode.yaml").write_text(yaml.safe_dump(search))
    result = start(
        recipe / "run.sh",
        *("--corpus", "kaldi", "--tag", "owsm", "--stop_stage", "19"),
        *("--data_args", f"--train {s2t_data} --dev {s2t_data} --test {spoken}"),
        *("--teacher_config", str(owsm / "config.yaml")),
        *("--teacher_model", str(owsm / "model.pth")),
        *("--prune_args", " ".join(SHORT)),
        *("--finetune_args", " ".join(SHORT)),
        *("--inference_config", "decode.yaml", "--nj", "1"),
        *("--measure_args", "--utts 2 --rounds 1"),
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    report = json.loads((recipe / "exp/owsm_report/report.json").read_text())
    dense, compact = report["rows"]
    assert compact["params"]["encoder"] < 0.51 * dense["params"]["encoder"]
    for row in (dense, compact):
        assert row["quality"]["WER"]["value"] > 0 and row["rtf"]["encoder"] > 0
    model = recipe / "exp/owsm_compact_params_macs50"
    heard = read_table(model / "decode_decode/owsm_test/text")
    assert heard.keys() == read_table(spoken / "text").keys()
    monkeypatch.chdir(recipe)  # from where its config names its files
    assert Speech2Text(model / "config.yaml", model / "finetuned.pth")
    assert (model / "owsm_compact_params_macs50.zip").exists()


def test_prune_gives_the_decoder_of_the_task(owsm, s2t_data, tmp_path):
    speech2text = espnet_prune.prune(
        owsm,
        s2t_data,
        tmp_path / "out",
        model="model.pth",
        prune_options=SHORT,
        finetune_options=SHORT,
        nj=1,
        beam_size=2,
    )
    assert isinstance(speech2text, Speech2Text)
    held_out = read_table(tmp_path / "out/dump/valid/text.prev")
    assert len(held_out) == 1

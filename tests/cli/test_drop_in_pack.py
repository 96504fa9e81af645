"""What asr.sh's stage 14 packs: a compact model by ours, every other as ESPnet does."""

import json
import shutil
import zipfile

import pytest
import yaml
from espnet2.bin import pack as espnet
from espnet2.main_funcs import pack_funcs

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli import drop_in_pack
from espnet_prune.families.espnet.checkpoint import load_model


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """``pack(exp, model, *options)`` in a recipe's directory gives the archive."""

    def run(exp, model, *options, main=drop_in_pack.main, task="asr"):
        if not (tmp_path / "exp").exists():
            shutil.copytree(exp, tmp_path / "exp")
        monkeypatch.chdir(tmp_path)
        argv = ["pack", task, f"--{task}_train_config", "exp/config.yaml"]
        argv += [f"--{task}_model_file", f"exp/{model}", "--outpath", "exp/packed.zip"]
        monkeypatch.setattr("sys.argv", [*argv, *options])
        main()
        return zipfile.ZipFile("exp/packed.zip")

    return run


def test_what_is_not_ours_is_packed_as_espnet_packs_it(dense, pack):
    names = "exp/config.yaml", "exp/model.pth"
    archive = pack(dense, "model.pth")
    assert set(archive.namelist()) == {"meta.yaml", *names}
    ours = [archive.read(name) for name in names]  # before the next has its place
    archive = pack(dense, "model.pth", main=espnet.main)
    assert ours == [archive.read(name) for name in names]
    with pytest.raises(FileNotFoundError, match="exp/images"):
        pack(dense, "model.pth", "--option", "exp/images")


def test_a_model_of_another_task_is_packed_alike(owsm, pack, tmp_path):
    shutil.copytree(owsm, tmp_path / "exp")
    told = {"method": "small", "target": {"kind": "params", "value": 0.5}}
    (tmp_path / "exp/pruning.json").write_text(json.dumps(told | {"realised": 0.5}))
    archive = pack(owsm, "model.pth", task="s2t")
    assert {"config.yaml", "model.pth", "pruning.json"} <= set(archive.namelist())
    assert b"s2t_inference import Speech2Text" in archive.read("README.md")
    files = pack_funcs.unpack("exp/packed.zip", "elsewhere")
    load_model(files["s2t_train_config"], files["s2t_model_file"])


def test_a_dense_model_is_packed_with_what_our_upstream_read(
    make_dense, make_frontend, pack
):
    options = make_frontend()
    archive = pack(make_dense(**options), "model.pth")
    assert "pruning.json" not in archive.namelist()
    assert b"An ASR model for" in archive.read("README.md")
    shutil.rmtree(options["frontend_conf"]["frontend_conf"]["path_or_url"])
    files = pack_funcs.unpack("exp/packed.zip", "elsewhere")
    load_model(files["asr_train_config"], files["asr_model_file"])


def test_a_compact_model_is_packed_with_what_is_there(compact, pack, tmp_path):
    for name in ("lm/config.yaml", "lm/valid.loss.ave.pth", "lm/images/loss.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"file: {name}")
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats/feats_stats.npz").write_text("of a training, not of the teacher")
    archive = pack(
        *(compact, "pruned.pth", "--lm_train_config", "lm/config.yaml"),
        *("--lm_file", "lm/valid.loss.ave.pth", "--option", "lm/images"),
        *("--option", "exp/images", "--option", "stats/feats_stats.npz"),
    )
    assert set(archive.namelist()) == {
        *("meta.yaml", "config.yaml", "model.pth", "pruning.json", "README.md"),
        *("feats_stats.npz", "lm_config.yaml", "lm.pth", "lm/images/loss.png"),
    }
    assert b"of a training" not in archive.read("feats_stats.npz")
    files = pack_funcs.unpack("exp/packed.zip", "elsewhere")
    load_model(files["asr_train_config"], files["asr_model_file"])
    assert (tmp_path / files["lm_file"]).read_text() == "file: lm/valid.loss.ave.pth"
    card = archive.read("README.md").decode()
    assert 'from_pretrained("packed.zip")' in card and "Method l0; target" in card
    assert "license" not in card and "RTF" not in card


@pytest.mark.parametrize(
    "model, options, told",
    [
        ("finetuned.pth", [], "exp/finetuned.pth: does not exist"),
        ("pruned.pth", ["--lm_file", "lm.pth"], "lm.pth: .* leave out --lm_file"),
        ("pruned.pth", ["--outpath", "exp/packed.tgz"], "does not end in .zip"),
    ],
)
def test_a_compact_model_of_which_something_is_missing(
    compact, pack, tmp_path, model, options, told
):
    with pytest.raises(InputError, match=told):
        pack(compact, model, *options)
    assert not list((tmp_path / "exp").glob("*packed*"))


def test_a_pruning_run_is_not_packed(dense, pack, tmp_path):
    shutil.copytree(dense, tmp_path / "exp")
    config = read_yaml(dense / "config.yaml")
    config["model_conf"]["gates"] = {"mode": "hard_concrete"}
    (tmp_path / "exp/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="is a pruning run -> export it first"):
        pack(dense, "model.pth")

"""A packed model, unpacked where nothing else of the recipe is."""

import re
import shutil
import sys
import zipfile
from pathlib import Path

import espnet_model_zoo
import pytest
import soundfile
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_prune.base.errors import InputError
from espnet_prune.cli import pack as program


@pytest.fixture
def pack(compact, dense, monkeypatch):
    """Run stage 19 on the fixtures' models."""

    def run(out, model="pruned.pth", **options):
        arguments = {"compact": compact, "dense": dense, "out": out, "model": model}
        arguments |= {"license": "cc-by-4.0", "corpus": "tones", "test_sets": "test"}
        arguments |= {"decode_tag": "decode", "note": "A test."} | options
        pairs = [x for k, v in arguments.items() for x in (f"--{k}", str(v))]
        monkeypatch.setattr(sys, "argv", ["pack", *pairs])
        program.main()

    return run


@pytest.fixture
def elsewhere(installed, tmp_path, monkeypatch):
    """A path of imports with the installed package and not the checkout; from another
    directory. The model zoo, which unpacks beside its own code, is a copy, too."""
    zoo = Path(espnet_model_zoo.__file__).parent
    shutil.copytree(zoo, tmp_path / "site" / zoo.name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return f"{installed}:{tmp_path / 'site'}"


@pytest.mark.slow  # the code on the card, where only the package is
def test_packed_model_decodes_elsewhere_as_its_card_says(
    pack, compact, python, data_dir, elsewhere, installed, tmp_path
):
    pack("model.zip")
    shutil.copy(data_dir / "utt03.wav", "my.wav")
    with zipfile.ZipFile("model.zip") as archive:
        card = archive.read("README.md").decode()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    # There are fewer tokens than ESPnet's beam is wide.
    code = code.replace('.zip")', '.zip", beam_size=2)')
    code += "print('heard', text, 'with', espnet_prune.__file__)"
    result = python("-c", code, path=elsewhere)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "site/espnet_model_zoo").glob("*/meta.yaml"))
    here = Speech2Text(compact / "config.yaml", compact / "pruned.pth", beam_size=2)
    text = here(soundfile.read("my.wav")[0])[0][0]
    assert f"heard {text} with {installed}" in result.stdout


def test_the_archive_holds_a_card_and_no_path_of_this_machine(pack, dense, tmp_path):
    pack(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        card = archive.read("README.md").decode()
        config = yaml.safe_load(archive.read("config.yaml"))
        names = set(archive.namelist())
    assert {"meta.yaml", "model.pth", "pruning.json", "feats_stats.npz"} <= names
    assert config["normalize_conf"]["stats_file"] == "feats_stats.npz"
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-4.0" and "espnet" in front["tags"]
    for part in ("Corpus: tones. A test.", "| dense | ", "at 16000 Hz", "50.0 %"):
        assert part in card
    assert str(dense) not in card + yaml.safe_dump(config)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"model": "finetuned.pth"}, "does not exist"),
        ({"compact": "nowhere"}, "holds no compact model"),
        ({"out": "model.tar"}, "does not end in .zip"),
    ],
)
def test_nothing_is_left_of_what_cannot_be_packed(pack, tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        pack(**{"out": tmp_path / "model.zip"} | options)
    assert not list(tmp_path.iterdir())

"""A packed model, unpacked where nothing else of the recipe is; a fetched teacher."""

import contextlib
import sys
import zipfile

import pytest
import torch
import yaml
from espnet2.main_funcs import pack_funcs

from espnet_prune.bin import fetch_teacher
from espnet_prune.bin import pack as program
from espnet_prune.errors import InputError

USE = """
import sys, soundfile
from espnet_model_zoo.downloader import ModelDownloader
ModelDownloader.__init__.__defaults__ = (sys.argv[2],)  # else beside its own code
import espnet_prune
from espnet2.bin.asr_inference import Speech2Text
speech2text = Speech2Text.from_pretrained(sys.argv[1], beam_size=2)
speech, _ = soundfile.read(sys.argv[3], dtype="float32")
print("heard", speech2text(speech)[0][0])
"""


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


def test_packed_model_loads_and_decodes_elsewhere(
    pack, compact, python, tmp_path, data_dir, monkeypatch
):
    from espnet2.bin.asr_inference import Speech2Text

    out = tmp_path / "model.zip"
    pack(out)
    wav = data_dir / "utt03.wav"
    monkeypatch.chdir(tmp_path)
    result = python("-c", USE, out, tmp_path / "cache", wav)
    assert result.returncode == 0, result.stderr
    import soundfile

    here = Speech2Text(compact / "config.yaml", compact / "pruned.pth", beam_size=2)
    text = here(soundfile.read(wav, dtype="float32")[0])[0][0]
    assert f"heard {text}" in result.stdout


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
    for part in ("Corpus: tones. A test.", "| dense | test |", "at 16000 Hz", "50.0 %"):
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


@pytest.fixture
def published(dense, tmp_path):
    """A zip of the dense model, as ESPnet's own stage 14 packs it."""

    def make(name="published.zip"):
        with contextlib.chdir(dense):
            pack_funcs.pack(
                {"asr_model_file": "model.pth"},
                {"asr_train_config": "config.yaml"},
                tmp_path / name,
                [str(dense / "feats_stats.npz")],
            )
        return tmp_path / name

    return make


def fetch(monkeypatch, tag, out):
    monkeypatch.setattr(sys, "argv", ["fetch", "--tag", str(tag), "--out", str(out)])
    fetch_teacher.main()


def test_a_fetched_teacher_is_the_published_one_also_when_it_changed(
    published, dense, tmp_path, monkeypatch
):
    out = tmp_path / "exp/teacher"
    fetch(monkeypatch, published(), out)
    weights = torch.load(dense / "model.pth")
    fetched = torch.load(out / "model.pth")
    assert fetched.keys() == weights.keys()
    assert all(fetched[key].equal(value) for key, value in weights.items())
    changed = {key: value + 1 for key, value in weights.items()}
    torch.save(changed, dense / "model.pth")
    try:
        fetch(monkeypatch, published(), out)
    finally:
        torch.save(weights, dense / "model.pth")
    again = torch.load(out / "model.pth")
    assert all(again[key].equal(value) for key, value in changed.items())


def test_a_damaged_zip_leaves_the_teacher_that_was_fetched(
    published, tmp_path, monkeypatch
):
    out, zipped = tmp_path / "exp/teacher", published()
    fetch(monkeypatch, zipped, out)
    before = (out / "model.pth").read_bytes()
    whole = zipfile.ZipFile(zipped)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as damaged:
        for name in whole.namelist():
            data = whole.read(name)
            damaged.writestr(name, b"no weights" if name == "model.pth" else data)
    (tmp_path / "other.zip").replace(zipped)
    with pytest.raises(InputError):
        fetch(monkeypatch, zipped, out)
    assert (out / "model.pth").read_bytes() == before


def test_what_cannot_be_fetched_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot be had"):
        fetch(monkeypatch, tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        fetch(monkeypatch, tmp_path / "missing.zip", tmp_path / "out")
    assert not (tmp_path / "out/config.yaml").exists()

"""Stage 14 with ``--soup``: one model of several fine-tunings."""

import json
import shutil

import pytest
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml, write_yaml
from espnet_prune.cli import soup
from espnet_prune.export.compact_dir import place_weights
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.training.soup import average

A, BLANK = 3, 0  # of the tokens
AVERAGE = "valid.loss.ave.pth"


@pytest.fixture(scope="module")
def tuned(train, compact, tmp_path_factory):
    """A compact model, and one fine-tuning of it that is an ingredient."""
    folder = shutil.copytree(compact, tmp_path_factory.mktemp("soup") / "compact")
    criterion = {"best_model_criterion": [["valid", "loss", "min"]], "max_epoch": 1}
    train(folder / "finetune", "--compact", folder, "--ingredient", **criterion)
    return folder


@pytest.fixture
def cook(tuned, tmp_path):
    """``cook(says=0.5, ...)``: a soup of fine-tunings that say one token only.

    Their names are the directories, a number how sure they are of "A" against nothing.
    """
    compact = shutil.copytree(tuned, tmp_path / "compact")

    def run(**fine_tunings):
        config = read_yaml(tuned / "finetune/config.yaml")
        for seed, (name, sure) in enumerate(fine_tunings.items()):
            state = torch.load(tuned / "finetune" / AVERAGE)
            torch.manual_seed(seed)  # no two have the same weights
            state["encoder.after_norm.weight"] += 0.1 * torch.randn(16)
            state["ctc.ctc_lo.weight"].zero_()
            state["ctc.ctc_lo.bias"].fill_(-9)
            state["ctc.ctc_lo.bias"][[A, BLANK]] = torch.tensor([sure, 0.0])
            (compact / name).mkdir(exist_ok=True)
            write_yaml(compact / name / "config.yaml", config | {"seed": seed})
            torch.save(state, compact / name / AVERAGE)
        runs = [str(compact / name) for name in fine_tunings]
        soup.main(["--compact", str(compact), "--runs", *runs])
        return json.loads((compact / "soup.json").read_text())

    run.compact = compact
    return run


def test_what_helps_is_averaged_and_told(cook, data_dir):
    """Of twelve words two are an "A"; who says nothing has all wrong."""
    found = cook(silent=-8.0, finetune=2.0, other=1.0)
    told = [(one["run"], one["is_in"], one["seed"]) for one in found["ingredients"]]
    assert told == [("silent", False, 0), ("finetune", True, 1), ("other", True, 2)]
    rates = [one["error_rate"] for one in found["ingredients"]]
    assert rates == pytest.approx([1, 10 / 12, 10 / 12])
    assert found["error_rate"] == found["best_single"] == pytest.approx(10 / 12)
    assert found["metric"] == "WER" and found["validation"] == str(data_dir)
    states = [torch.load(cook.compact / n / AVERAGE) for n in ("finetune", "other")]
    soup = cook.compact / "finetuned.pth"
    mean = average([{k: s[k] for k in torch.load(soup)} for s in states])
    torch.testing.assert_close(torch.load(soup), mean, rtol=0, atol=0)
    load_model(cook.compact / "config.yaml", soup)


def test_the_same_soup_is_not_made_again_but_another_is(cook, monkeypatch):
    files = [cook.compact / name for name in ("soup.json", "finetuned.pth")]
    cook(silent=-8.0, finetune=2.0)
    made = [file.stat().st_mtime_ns for file in files]
    cook(silent=-8.0, finetune=2.0)
    assert [file.stat().st_mtime_ns for file in files] == made
    best = files[1].read_bytes()
    for change in ({"other": 1.0}, {"finetune": 3.0}):
        cook(**{"silent": -8.0, "finetune": 2.0} | change)
        assert files[1].read_bytes() != best
    # A soup that was killed before it told of itself is made again.
    files[0].unlink()
    assert cook(silent=-8.0, finetune=2.0)["error_rate"] == pytest.approx(10 / 12)
    assert files[1].read_bytes() == best


def test_a_fine_tuning_alone_takes_the_place_of_a_soup_with_what_told_of_it(cook):
    assert not (cook.compact / "finetuned.pth").exists()  # of the ingredient
    cook(silent=-8.0, finetune=2.0)
    place_weights(torch.load(cook.compact / "silent" / AVERAGE), cook.compact)
    assert not (cook.compact / "soup.json").exists()
    bias = torch.load(cook.compact / "finetuned.pth")["ctc.ctc_lo.bias"]
    assert bias[A] == -8.0


def test_a_fine_tuning_that_left_nothing_is_named(cook, tuned):
    (cook.compact / "finetune" / AVERAGE).unlink()
    argv = ["--compact", str(cook.compact), "--runs", str(cook.compact / "finetune")]
    with pytest.raises(InputError, match=f"finetune/{AVERAGE}: was not written"):
        soup.main(argv)

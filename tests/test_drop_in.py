"""ESPnet's programs by way of ours: what is not ours stays as it was."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli import asr_inference, drop_in_train
from espnet_prune.training.configs import OWN_KEYS

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture
def decode(monkeypatch):
    """``decode(config, model)``: build the decoder that ESPnet's program would."""

    def run(config, model):
        program = ["asr_inference", "--asr_train_config", str(config)]
        monkeypatch.setattr("sys.argv", [*program, "--asr_model_file", str(model)])
        monkeypatch.setattr(asr_inference, "hand_logging_to_espnet", lambda: None)
        monkeypatch.setattr(
            asr_inference.espnet,
            "main",
            lambda cmd: built.append(asr_inference.espnet.Speech2Text(*cmd[1::2])),
        )
        built = []
        asr_inference.main()
        return built[0].asr_model.state_dict()

    return run


def test_files_that_espnet_alone_can_read_are_left_to_it(dense, decode, tmp_path):
    weights = torch.load(dense / "model.pth")
    wrapped, partial = tmp_path / "deepspeed.pth", tmp_path / "adapter_only.pth"
    torch.save({"module": weights}, wrapped)
    torch.save({"ctc.ctc_lo.bias": weights["ctc.ctc_lo.bias"]}, partial)
    for model in (wrapped, partial):
        loaded = decode(dense / "config.yaml", model)
        assert torch.equal(loaded["ctc.ctc_lo.bias"], weights["ctc.ctc_lo.bias"])


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_of_our_models_must_be_complete(dense, decode, tmp_path, part):
    config = read_yaml(dense / "config.yaml")
    config[part] = f"prunable_{config[part]}"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    weights = torch.load(shutil.copy(dense / "model.pth", tmp_path))
    assert decode(tmp_path / "config.yaml", tmp_path / "model.pth")
    del weights["ctc.ctc_lo.bias"]
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(InputError, match="does not fit"):
        decode(tmp_path / "config.yaml", tmp_path / "model.pth")


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_config_of_ours_without_a_teacher_is_told_so(key, tmp_path, monkeypatch):
    config = tmp_path / "prune.yaml"
    config.write_text(yaml.safe_dump({key: {}, "max_epoch": 3}))
    monkeypatch.setattr("sys.argv", ["asr_train", "--config", str(config)])
    # ESPnet's program would take the place of this process.
    monkeypatch.setattr("os.execv", lambda *command: pytest.fail(str(command)))
    with pytest.raises(InputError, match="prune.yaml: lacks teacher_config"):
        drop_in_train.main()


@pytest.mark.parametrize("name", ["prune", "finetune"])
def test_shipped_configs_for_asr_sh_prune_as_run_sh_does(name):
    ours, theirs = (read_yaml(CONF / f"{name}{end}.yaml") for end in ("", "_asr_sh"))
    if name == "prune":  # run.sh has options for these
        ours["sparsity"] |= {"kind": "params", "target": 0.5}
    same = ours.keys() - {"batch_bins", "num_workers", "max_epoch", "seed"}
    same -= {"log_interval"}
    assert {k: theirs[k] for k in same} == {k: ours[k] for k in same}
    added = theirs.keys() - ours.keys()
    assert added == {*drop_in_train.TEACHER, *(["compact"] * (name == "finetune"))}

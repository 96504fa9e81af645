"""What is checked before a training: its audio, and what its directory holds."""

import shutil

import pytest
import torch
import yaml

from espnet_prune.errors import InputError
from espnet_prune.origin import (
    refuse_another_run,
    refuse_missing_gpus,
    refuse_wrong_rate,
)
from espnet_prune.task import PruneASRTask


@pytest.fixture
def begun(student_command, dense, tmp_path):
    """``begun(*options)``: check a command line against the run in ``tmp_path``."""
    teacher = shutil.copy(dense / "model.pth", tmp_path / "teacher.pth")
    command = [*student_command(tmp_path / "run"), "--teacher_model", str(teacher)]

    def check(*options: str) -> None:
        refuse_another_run(PruneASRTask.get_parser().parse_args([*command, *options]))

    check()
    (tmp_path / "run" / "checkpoint.pth").touch()
    return check


def test_what_does_not_change_the_model_may_change(begun):
    begun()
    begun("--max_epoch", "9", "--log_interval", "3", "--ngpu", "2")


@pytest.mark.parametrize(
    "options",
    [
        ("--batch_bins", "7"),
        ("--seed", "777"),
        ("--optim_conf", "lr=0.5"),
        ("--model_conf", "ctc_weight=0.9"),
        ("--encoder_conf", "num_blocks=7"),
    ],
    ids=lambda options: options[0],
)
def test_other_options_are_refused(begun, options):
    with pytest.raises(InputError, match="run: holds a training of other options"):
        begun(*options)


def test_other_tokens_of_the_same_number_are_refused(begun, tmp_path):
    config = tmp_path / "run" / "student.yaml"
    recipe = yaml.safe_load(config.read_text())
    tokens = recipe["token_list"]
    recipe["token_list"] = tokens[:1] + tokens[-2:0:-1] + tokens[-1:]
    config.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="other options"):
        begun()


def test_other_data_under_the_same_name_are_refused(begun, tmp_path, data_dir):
    lengths = tmp_path / "lengths"
    begun_with = [f"{line} 1" for line in ("a", "b")]
    lengths.write_text("\n".join(begun_with))
    (tmp_path / "run" / "checkpoint.pth").unlink()
    begun("--train_shape_file", str(lengths))
    (tmp_path / "run" / "checkpoint.pth").touch()
    begun("--train_shape_file", str(lengths))
    lengths.write_text("c 1")
    with pytest.raises(InputError, match="other options"):
        begun("--train_shape_file", str(lengths))


def test_other_teacher_weights_are_refused(begun, tmp_path):
    state = torch.load(tmp_path / "teacher.pth")
    state["ctc.ctc_lo.bias"] += 1.0
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(InputError, match="other options"):
        begun()


def test_missing_gpus_are_refused():
    refuse_missing_gpus(torch.cuda.device_count())
    with pytest.raises(InputError, match="^--ngpu 99: .* GPUs here -> "):
        refuse_missing_gpus(99)


def test_audio_of_another_rate_is_refused(student_command, tmp_path):
    command = student_command(tmp_path / "run")
    refuse_wrong_rate(PruneASRTask.get_parser().parse_args(command))
    command += ["--frontend_conf", "fs=8000"]
    with pytest.raises(InputError, match="wav.scp: holds audio of 16000 Hz.* 8000 Hz"):
        refuse_wrong_rate(PruneASRTask.get_parser().parse_args(command))

"""What is checked before a training: its audio, and what its directory holds."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.cli import prune_train
from espnet_prune.families.espnet.tasks import ASR, S2T
from espnet_prune.training.origin import (
    refuse_another_run,
    refuse_missing_gpus,
    refuse_wrong_rate,
    with_texts,
)
from espnet_prune.training.task import PruneASRTask
from tests.fixtures.runs import RECIPE


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
    begun("--log_interval", "3", "--ngpu", "2")


@pytest.mark.parametrize("epochs", [1, 9])
def test_pruning_takes_the_epochs_that_it_was_planned_for(begun, tmp_path, epochs):
    """The target would fall back, or jump, and the rates of the gates with it."""
    run = tmp_path / "run"
    (run / "config.yaml").write_text("max_epoch: 2\n")
    begun("--max_epoch", "2")
    with pytest.raises(InputError) as refused:
        begun("--max_epoch", str(epochs))
    assert str(refused.value) == (
        f"--max_epoch {epochs}: {run} was begun for 2 epochs, over which its target "
        "rises -> give --max_epoch 2, or train anew in another directory"
    )
    with pytest.raises(InputError, match="of other options.*max_epoch, seed"):
        begun("--max_epoch", "9", "--seed", "7")


def test_three_stages_take_the_epochs_that_it_was_planned_for(
    finetune_command, tmp_path
):
    """The learning rate has fallen to nothing: what follows would not train."""
    cycle = ["--scheduler", "tristagelr", "--max_epoch"]
    command = [*finetune_command(tmp_path / "run"), *cycle]
    options = PruneASRTask.get_parser().parse_args([*command, "2"])
    refuse_another_run(options)
    (tmp_path / "run" / "checkpoint.pth").touch()
    (tmp_path / "run" / "config.yaml").write_text("max_epoch: 2\n")
    refuse_another_run(options)
    longer = PruneASRTask.get_parser().parse_args([*command, "3"])
    with pytest.raises(InputError, match="for 2 epochs, over which its learning rate"):
        refuse_another_run(longer)


def test_fine_tuning_may_go_on_for_longer(finetune_command, tmp_path):
    command = finetune_command(tmp_path / "run")
    for epochs in ("2", "9", "1"):
        options = [*command, "--max_epoch", epochs]
        refuse_another_run(PruneASRTask.get_parser().parse_args(options))
        (tmp_path / "run" / "checkpoint.pth").touch()


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
    with pytest.raises(InputError, match="run: holds a training of other") as refused:
        begun(*options)
    assert f"({options[0][2:]}) -> move it away" in str(refused.value)


def test_other_tokens_of_the_same_number_are_refused(begun, tmp_path):
    config = tmp_path / "run" / "student.yaml"
    recipe = yaml.safe_load(config.read_text())
    tokens = recipe["token_list"]
    recipe["token_list"] = tokens[:1] + tokens[-2:0:-1] + tokens[-1:]
    config.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match="other options"):
        begun()


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


def test_texts_are_found_beside_text_where_none_are_given(s2t_data, s2t_data_options):
    assert with_texts(s2t_data_options, ASR) == s2t_data_options
    option = "--train_data_path_and_name_and_type"
    own = [option, "my.ctc,text_ctc,text"]
    found = with_texts([*s2t_data_options, *own], S2T)[len(s2t_data_options) :]
    valid = option.replace("train", "valid")
    assert found == [
        *own,
        *(option, f"{s2t_data}/text.prev,text_prev,text"),
        *(valid, f"{s2t_data}/text.prev,text_prev,text"),
        *(valid, f"{s2t_data}/text.ctc,text_ctc,text"),
    ]


def test_data_without_a_text_that_the_task_learns_from_are_refused(
    owsm, data_options, tmp_path
):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    command = ["--recipe", tmp_path / "recipe.yaml", "--output_dir", tmp_path / "out"]
    command += ["--teacher_config", owsm / "config.yaml"]
    command += ["--teacher_model", owsm / "model.pth", *data_options]
    with pytest.raises(InputError, match="^--train_data.* no text_prev and no text_ct"):
        prune_train.main([*map(str, command)])
    assert not list((tmp_path / "out").glob("*"))


@pytest.fixture
def halves(data_dir, tmp_path):
    """``halves(name)``: a table of the data, cut as ``--num_splits_asr 2`` does."""

    def cut(name):
        lines = (data_dir / name).read_text().splitlines(keepends=True)
        folder = tmp_path / "splits2" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "num_splits").write_text("2")
        for i in range(2):
            (folder / f"split.{i}").write_text("".join(lines[i::2]))
        return str(folder)

    return cut


def test_rate_of_split_data_is_that_of_the_first_part(
    student_command, halves, tmp_path
):
    options = PruneASRTask.get_parser().parse_args(student_command(tmp_path / "run"))
    options.train_data_path_and_name_and_type = [(halves("wav.scp"), "speech", "sound")]
    refuse_wrong_rate(options)
    options.frontend_conf["fs"] = 8000
    with pytest.raises(InputError, match="split.0: holds audio of 16000 Hz"):
        refuse_wrong_rate(options)


def test_split_data_are_refused_by_name_for_students(train, tmp_path):
    with pytest.raises(InputError, match="^--multiple_iterator: .*--num_splits_asr"):
        train(tmp_path / "run", "--multiple_iterator", "true")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("changed", ["utt2num_samples", "split.1"])
def test_other_data_under_the_same_name_are_refused(begun, halves, tmp_path, changed):
    lengths = Path(halves("utt2num_samples"))
    table = lengths / changed
    if changed == "utt2num_samples":  # in one piece
        lengths = table = tmp_path / changed
        table.write_text("a 1\nb 1\n")
    (tmp_path / "run" / "checkpoint.pth").unlink()
    for _ in range(2):
        begun("--train_shape_file", str(lengths))
        (tmp_path / "run" / "checkpoint.pth").touch()
    table.write_text("c 1\n")
    with pytest.raises(InputError, match="other options"):
        begun("--train_shape_file", str(lengths))


def test_other_transcripts_or_audio_of_the_same_lengths_are_refused(
    student_command, data_dir, tmp_path
):
    data = shutil.copytree(data_dir, tmp_path / "set/train")
    command = [str(word) for word in student_command(tmp_path / "run")]
    command = [word.replace(str(data_dir), str(data)) for word in command]

    def check():
        refuse_another_run(PruneASRTask.get_parser().parse_args(command))

    check()
    (tmp_path / "run" / "checkpoint.pth").touch()
    check()
    said = (data / "text").read_text()
    (data / "text").write_text(said.replace("A", "B"))
    with pytest.raises(InputError, match="other options, data"):
        check()
    (data / "text").write_text(said)
    check()
    (data.parent / ".made_of").write_text("of other recordings")
    with pytest.raises(InputError, match="other options, data"):
        check()

import sys
import time

import pytest

from espnet_prune.bin.progress import describe, main
from espnet_prune.errors import InputError

PREFIX = "[vm] 2026-11-21 01:08:06,198 (trainer:336) INFO: "


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("1/16epoch started", "epoch 1/16"),
        (
            "3/16epoch started. Estimated time to finish: 5 minutes and 30.2 seconds",
            "epoch 3/16, time left: 5 minutes and 30.2 seconds",
        ),
        (
            "2epoch:train:21-40batch: iter_time=0.015, forward_time=0.165, "
            "loss_ctc=45.395, acc=0.010, loss=38.683, sparsity_realised=0.25, "
            "sparsity_target=2.500e-01, optim0_lr0=1.575e-04, train_time=0.406",
            "  batch 40 (0.0 min): loss 38.683 acc 0.010 sparsity_realised 0.250 "
            "sparsity_target 0.250",
        ),
        (
            "2epoch results: [train] loss=9.5, acc=0.1, time=10 seconds, "
            "[valid] loss_ctc=1.0, acc=0.75, loss=0.5, time=1.2 seconds",
            "  after epoch 2: valid loss 0.500 acc 0.750",
        ),
        ("The best model has been updated: valid.acc", None),
        ("", None),
    ],
)
def test_espnets_log_lines_are_told_in_short(line, shown):
    assert describe(PREFIX + line, time.monotonic()) == shown


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_loss_that_is_no_number_does_not_stop_the_progress(value):
    line = f"{PREFIX}1epoch:train:1-20batch: loss={value}, acc=0.5"
    assert "acc 0.500" in describe(line, time.monotonic())


@pytest.fixture
def watch(tmp_path, monkeypatch, capsys):
    log = tmp_path / "exp" / "train.log"

    def run(code: str) -> tuple[str, str]:
        command = [sys.executable, "-c", code]
        argv = ["progress", "--log", str(log), "--", *command]
        monkeypatch.setattr(sys, "argv", argv)
        assert main() == 0
        return capsys.readouterr().out, log.read_text()

    return run


def test_terminal_and_log_are_told(watch):
    out, log = watch("print('1/2epoch started'); print('other')")
    assert "epoch 1/2" in out and "train.log" in out and "other" not in out
    assert log == "1/2epoch started\nother\n"


def test_log_of_a_resumed_run_is_kept_and_not_told_again(watch):
    watch("print('1/2epoch started')")
    out, log = watch("print('2/2epoch started')")
    assert log == "1/2epoch started\n2/2epoch started\n"
    assert "epoch 2/2" in out and "epoch 1/2" not in out


def test_last_line_without_an_end_is_told(watch):
    out, _ = watch("print('1/2epoch started', end='')")
    assert "epoch 1/2" in out


def test_failed_training_names_its_log_and_shows_its_end(watch, capsys):
    with pytest.raises(InputError, match=r"train.log: the training failed \(exit 3\)"):
        watch("import sys; print('the cause'); sys.exit(3)")
    assert "the cause" in capsys.readouterr().err

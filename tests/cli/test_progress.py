import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.cli.progress import Watcher
from espnet_prune.cli.progress import watch as watch_

PREFIX = "[vm] 2026-11-21 01:08:06,198 (trainer:336) INFO: "


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("1/16epoch started", "epoch 1/16"),
        (
            "3/16epoch started. Estimated time to finish: 5 minutes and 30.2 seconds",
            "epoch 3/16",
        ),
        (
            "2epoch:train:21-40batch: iter_time=0.015, forward_time=0.165, "
            "loss_ctc=45.395, acc=0.010, loss=38.683, sparsity_realised=0.25, "
            "sparsity_target=2.500e-01, optim0_lr0=1.575e-04, train_time=0.406",
            "  batch 40/90, time left: 0.0 min: loss 38.683 acc 0.010 "
            "sparsity_realised 0.250 sparsity_target 0.250",
        ),
        (
            "2epoch results: [train] loss=9.5, acc=0.1, time=10 seconds, "
            "[valid] loss_ctc=1.0, acc=0.75, loss=0.5, time=1.2 seconds",
            "  after epoch 2: valid loss 0.500 acc 0.750",
        ),
        ("The best model has been updated: valid.acc", None),
        (
            "The training has already reached at max_epoch: 5",
            "all its epochs were done before",
        ),
        ("", None),
    ],
)
def test_espnets_log_lines_are_told_in_short(watcher, line, shown):
    assert watcher.describe(PREFIX + line) == shown


@pytest.fixture
def watcher(monkeypatch):
    """A watcher of a run that is to do the epochs 2-4, 90 batches each."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    watcher = Watcher()
    watcher.describe(f"{PREFIX}[train] mini-batch sizes summary: N-batch=90, mean=9.4")
    watcher.describe(f"{PREFIX}2/4epoch started")
    return watcher


def test_time_left_counts_the_batches_of_this_run_only(watcher, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1060.0)
    line = watcher.describe(f"{PREFIX}2epoch:train:21-30batch: loss=1.0")
    # 30 of 3 * 90 batches in a minute
    assert "batch 30/90, time left: 8.0 min" in line
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + 60 * 4)
    watcher.describe(f"{PREFIX}3/4epoch started. Estimated time to finish: 9 hours")
    line = watcher.describe(f"{PREFIX}3epoch:train:21-30batch: loss=1.0")
    assert "batch 30/90, time left: 5.0 min" in line


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_loss_that_is_no_number_does_not_stop_the_progress(watcher, value):
    line = f"{PREFIX}2epoch:train:1-20batch: loss={value}, acc=0.5"
    assert "acc 0.500" in watcher.describe(line)


@pytest.fixture
def watch(tmp_path, capsys):
    log = tmp_path / "exp" / "train.log"

    def run(code: str) -> tuple[str, str]:
        command = [sys.executable, "-c", code]
        watch_(command, log)
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


def test_log_that_another_program_writes_is_followed(tmp_path, capsys):
    # As ESPnet's launcher does: the old log goes aside, a new one takes its place.
    log = tmp_path / "train.log"
    log.write_text("1/3epoch started\n")
    code = (
        f"import os, time; log = {str(log)!r}; print('2/3epoch started')\n"
        "os.rename(log, log + '.1'); time.sleep(1)\n"
        "with open(log, 'w') as f: print('3/3epoch started', file=f)\n"
    )
    watch_([sys.executable, "-c", code], log, launcher=True)
    out = capsys.readouterr().out
    assert "epoch 3/3" in out and "epoch 1/3" not in out and "epoch 2/3" not in out
    assert (tmp_path / "launch.log").read_text() == "2/3epoch started\n"


def test_stopping_it_stops_what_a_launcher_has_started(tmp_path):
    log, pid = tmp_path / "train.log", tmp_path / "pid"
    launcher = ["bash", "-c", f"sleep 60 & echo $! >{pid}; wait"]
    code = "from pathlib import Path; from espnet_prune.cli.progress import watch; "
    code += f"watch({launcher}, Path({str(log)!r}), launcher=True)"
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, env=env)
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.wait()
    wait_for_the_end_of(int(pid.read_text()))


def test_last_line_without_an_end_is_told(watch):
    out, _ = watch("print('1/2epoch started', end='')")
    assert "epoch 1/2" in out


def test_failed_training_names_its_log_and_shows_its_end(watch, capsys):
    with pytest.raises(InputError, match=r"train.log: the training failed \(exit 3\)"):
        watch("import sys; print('the cause'); sys.exit(3)")
    assert "the cause" in capsys.readouterr().err


def test_killed_training_says_that_memory_was_too_little(watch):
    with pytest.raises(InputError, match=r"log: .* was killed, .*memory -> lower"):
        watch("import os; os.kill(os.getpid(), 9)")


@pytest.fixture
def running(tmp_path):
    """A shell with the progress program, whose training sleeps; the training's pid."""
    log = tmp_path / "exp" / "train.log"
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    command = [sys.executable, "-m", "espnet_prune.cli.progress", "--log", str(log)]
    root = Path(__file__).resolve().parents[2]
    words = shlex.join([*command, "--", sys.executable, "-c", code])
    # As in run.sh: the shell waits for it, and has more to do afterwards.
    process = subprocess.Popen(["bash", "-c", f"{words}; true"], cwd=root)
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training = int(log.read_text())
    progress = int(Path(f"/proc/{training}/stat").read_text().split()[3])
    yield process, progress, training
    for pid in (process.pid, progress, training):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def wait_for_the_end_of(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} goes on")


def test_two_trainings_do_not_share_a_directory(running, watch):
    *_, training = running
    with pytest.raises(InputError, match=f"runs there already .process {training}"):
        watch("")


def test_lock_outlives_a_killed_terminal_and_ends_with_the_training(running, watch):
    _, progress, training = running
    os.kill(progress, signal.SIGKILL)
    wait_for_the_end_of(progress)
    with pytest.raises(InputError, match="runs there already"):
        watch("")
    os.kill(training, signal.SIGKILL)
    wait_for_the_end_of(training)
    watch("")


def test_terminated_progress_takes_its_training_with_it(running):
    _, progress, training = running
    os.kill(progress, signal.SIGTERM)
    wait_for_the_end_of(progress)
    wait_for_the_end_of(training)


def test_killed_run_sh_takes_its_training_with_it(running):
    shell, _, training = running
    shell.kill()
    shell.wait()
    wait_for_the_end_of(training)
